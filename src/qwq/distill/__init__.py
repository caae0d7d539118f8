"""Distillation: a teacher's answers to problems, judged and sifted into an SFT set; and published
sets in the form that SFT reads.
"""
