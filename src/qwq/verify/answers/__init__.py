"""Rules by which data-analysis, table and SQL sets compare an answer with the expected one, each
written from the set's own scorer.

named_values.py   InfiAgent-DABench: `@name[value]`
denotation.py     WikiTableQuestions: lists of strings, numbers and dates
result_sets.py    Spider: two results of queries
answer_sets.py    AgentBench's DBBench: lists of answers, and a changed table's md5
queries.py        SQL of a model, run on a copy of a database in the jail
unit_tests.py     a program beside `unittest` modules (Exercism's exercises)
"""
