"""Reports whose every number is traced to executed code, or marked.

`reader.py` finds the numbers of a text, `output_numbers.py` those that calls gave, `trace.py`
brings them together, `attachment.py` says which row a number of a sentence is meant for,
`derived.py` computes differences and ratios of shown numbers, `deeds.py` checks claims of deeds,
`strict.py` fills placeholders, `write.py` and `page.py` write report.md and report.html.
"""

from qwq.agent.report.deeds import DeedCheck, check_deeds
from qwq.agent.report.trace import NumberCheck, NumberSource, check_numbers
from qwq.agent.report.write import ReportOutcome, correction, write_report

__all__ = [
    "DeedCheck", "NumberCheck", "NumberSource", "ReportOutcome", "check_deeds", "check_numbers", "correction",
    "write_report",
]  # fmt: skip
