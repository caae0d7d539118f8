"""The policies there are: the engine in this process (`local`), an OpenAI-compatible server
(`endpoint`).
"""
