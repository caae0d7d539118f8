"""Reports whose every number is traced to executed code, or marked."""

from qwq.agent.report.trace import NumberCheck, NumberSource, check_numbers

__all__ = ["NumberCheck", "NumberSource", "check_numbers"]
