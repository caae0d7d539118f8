"""C, C++, JavaScript and Bash in the jail: right programs pass, builds are cached; attacks/test_languages.py has the hostile ones."""

from __future__ import annotations

import shutil

import pytest

from qwq.sandbox import Sandbox, languages
from qwq.types import Outcome
from qwq.verify.code import verify

DOUBLED = {"kind": "stdio", "cases": [{"input": "3\n", "output": "6\n"}, {"input": "-4\n", "output": "-8\n"}]}
PROGRAMS = {
    "c": '#include <stdio.h>\nint main(){int n;scanf("%d",&n);printf("%d\\n",2*n);}',
    "cpp": "#include <bits/stdc++.h>\nint main(){int n;std::cin>>n;std::cout<<2*n<<std::endl;}",
    "javascript": "let n=parseInt(require('fs').readFileSync(0,'utf8'));console.log(2*n)",
    "bash": "read n; echo $((2*n))",
}


@pytest.fixture(scope="module")
def box():
    with Sandbox(1) as sandbox:
        if sandbox.level.value != "namespaces":
            pytest.skip(f"level {sandbox.level.value}: {sandbox.reason}")
        yield sandbox


def need(language: str) -> None:
    tool = {"c": "gcc", "cpp": "g++", "javascript": "node", "bash": "bash"}[language]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


@pytest.mark.parametrize("language", PROGRAMS)
def test_right_program_passes_and_wrong_one_fails(box, language):
    need(language)
    verdict = verify(PROGRAMS[language], DOUBLED, language=language, sandbox=box, timeout_s=20, memory_mb=1024)
    assert verdict.outcome is Outcome.CORRECT, verdict.reason
    wrong = PROGRAMS[language].replace("2*n", "3*n")
    verdict = verify(wrong, DOUBLED, language=language, sandbox=box, timeout_s=20, memory_mb=1024)
    assert verdict.outcome is Outcome.WRONG and verdict.passed == 0


def test_compile_error_is_the_programs_own(box):
    need("c")
    verdict = verify("int main( {", DOUBLED, language="c", sandbox=box, timeout_s=20)
    assert verdict.outcome is Outcome.WRONG and "compil" in verdict.reason.lower()


def test_a_running_program_opens_no_file_of_the_host(box):
    need("c")
    source = '#include <stdio.h>\nint main(){FILE*f=fopen("/etc/passwd","r");char b[9]="";if(f)fgets(b,9,f);printf("[%s]",b);}'
    assert box.run(source, language="c", timeout_s=20).stdout == b"[]"


def test_what_was_compiled_is_cached_by_its_source():
    language, tool = languages.installed("bash")
    assert languages.cache_key(language, tool, "a", {}) == languages.cache_key(language, tool, "a", {})
    keys = {languages.cache_key(language, tool, source, files) for source in "ab" for files in ({}, {"x.h": "1"})}
    assert len(keys) == 4
    cache = languages.ArtefactCache(limit_bytes=10)
    cache.put(b"1", "aaaaaa")
    cache.put(b"2", "bbbbbb")
    assert cache.get(b"1") is None and cache.get(b"2") == "bbbbbb"
