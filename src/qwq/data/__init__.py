"""Data files of the user's own: where their rows lie (`files`), which shapes the rows have
(`shapes`), and what becomes of each (`examples`).
"""
