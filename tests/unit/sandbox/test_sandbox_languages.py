"""Other languages in the jail, as far as this machine has them: right programs pass, builds are
cached; attacks/test_languages.py has the hostile ones.
"""

from __future__ import annotations

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
    "cpp17": "#include <iostream>\nint main(){int n;std::cin>>n;std::cout<<2*n;}",
    "cpp20": "#include <bits/stdc++.h>\nint main(){int n;std::cin>>n;std::vector "
    "v{2*n};std::ranges::sort(v);std::cout<<v[0];}",
    "cpp23": "#include <iostream>\nint main(){int n;std::cin>>n;auto two = 2uz; std::cout<<2*n;}",
    "java": "import java.util.*;\npublic class Sol { public static void main(String[] a) { int n = new "
    "Scanner(System.in).nextInt(); System.out.println(2*n); } }",
    "rust": "use std::io;\nfn main() { let mut s = String::new(); io::stdin().read_line(&mut s).unwrap(); let n: i64 = "
    's.trim().parse().unwrap(); println!("{}", 2*n); }',
    "perl": 'my $n = <STDIN>; $n = 2*$n; print "$n\\n";',
    "typescript": "declare var require: any;\nconst n: number = parseInt(require('fs').readFileSync(0, 'utf8')); "
    "console.log(2*n)",
    "go": 'package main\nimport "fmt"\nfunc main() { var n int; fmt.Scan(&n); fmt.Println(2*n) }',
    "ruby": "n = gets.to_i; puts 2*n",
    "php": '<?php $n = intval(fgets(STDIN)); echo 2*$n, "\\n";',
    "lua": "n = io.read('n'); print(2*n)",
}


@pytest.fixture(scope="module")
def box():
    with Sandbox(1) as sandbox:
        if sandbox.level.value != "namespaces":
            pytest.skip(f"level {sandbox.level.value}: {sandbox.reason}")
        yield sandbox


def need(language: str) -> None:
    found = languages.available()[language]
    if not found.startswith("/"):
        pytest.skip(found)


@pytest.mark.parametrize("language", PROGRAMS)
def test_right_program_passes_and_wrong_one_fails(box, language):
    need(language)
    verdict = verify(
        PROGRAMS[language], DOUBLED, language=language, sandbox=box, timeout_s=20, memory_mb=1024, compile_timeout_s=60
    )
    assert verdict.outcome is Outcome.CORRECT, verdict.reason
    wrong = PROGRAMS[language].replace("2*n", "3*n").replace("2*$n", "3*$n")
    verdict = verify(wrong, DOUBLED, language=language, sandbox=box, timeout_s=20, memory_mb=1024, compile_timeout_s=60)
    assert verdict.outcome is Outcome.WRONG and verdict.passed == 0


def test_compile_error_is_the_programs_own(box):
    need("c")
    verdict = verify("int main( {", DOUBLED, language="c", sandbox=box, timeout_s=20)
    assert verdict.outcome is Outcome.WRONG and "compil" in verdict.reason.lower()


def test_a_running_program_opens_no_file_of_the_host(box):
    need("c")
    source = (
        '#include <stdio.h>\nint main(){FILE*f=fopen("/etc/passwd","r");char '
        'b[9]="";if(f)fgets(b,9,f);printf("[%s]",b);}'
    )
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


def test_a_program_that_either_standard_takes_is_right(box):
    need("cpp")
    new = (
        "#include <bits/stdc++.h>\nusing namespace std;\nint main(){int "
        "n;cin>>n;cout<<2*n<<endl;if(popcount(7u)!=3)return 1;}"
    )
    # A name that C++20 took.
    old = "#include <bits/stdc++.h>\nusing namespace std;\nint ranges=2;\nint main(){int n;cin>>n;cout<<ranges*n;}"
    for source in (new, old):
        assert verify(source, DOUBLED, language="cpp", sandbox=box, timeout_s=20, compile_timeout_s=60).correct
    assert not verify(new, DOUBLED, language="c++17", sandbox=box, timeout_s=20, compile_timeout_s=60).correct
    assert not verify(old, DOUBLED, language="c++20", sandbox=box, timeout_s=20, compile_timeout_s=60).correct
    broken = verify("int main() { nonsense }", DOUBLED, language="cpp", sandbox=box)
    assert "nonsense" in broken.reason


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_online_judge_is_defined(box, language):
    need(language)
    source = (
        '#include <stdio.h>\nint main(){\n#ifndef ONLINE_JUDGE\nfreopen("input.txt","r",stdin);\n#endif\n'
        'int n;scanf("%d",&n);printf("%d",2*n);}'
    )
    assert verify(source, DOUBLED, language=language, sandbox=box, timeout_s=20).correct


def test_threads_and_deep_recursion_of_java(box):
    need("java")
    source = (
        "class Main { static int f(int n) { return n == 0 ? 0 : 1 + f(n - 1); }\n"
        "public static void main(String[] a) throws Exception { Thread[] t = new Thread[8]; int[] big = new "
        "int[40000000];\n"
        "for (int i = 0; i < 8; i++) { t[i] = new Thread(() -> {}); t[i].start(); }\n"
        "for (Thread x : t) x.join(); System.out.println(f(100000) + big.length); } }"
    )
    result = box.run(source, language="java", timeout_s=20, compile_timeout_s=60, memory_mb=512)
    assert result.stdout == b"40100000\n", result


def test_sql_over_the_tables_of_its_input(box):
    tests = {
        "kind": "stdio",
        "checker": "any_order",
        "cases": [
            {"input": "create table t(a, b);\ninsert into t values (1, 2), (0, 3), (1, 5);", "output": "1|7\n0|3\n"}
        ],
    }
    right = "select a, sum(b) from t group by a"
    for query, correct in (
        (right, True),
        (right + "; -- done", True),
        ("select a, b from t", False),
        ("select", False),
    ):
        assert verify(query, tests, language="sql", sandbox=box).correct is correct, query
    assert (
        box.run("select ';', null, 1.5, 2.0, x'41';select 1", language="sqlite", stdin=b"").stdout
        == b";||1.5|2.0|A\n1\n"
    )


def test_a_language_that_nobody_named_is_told_by_the_program():
    from qwq.verify.code import guess_language

    for language, source in PROGRAMS.items():
        expected = {"cpp17": "cpp", "cpp20": "cpp", "cpp23": "cpp", "lua": "python", "ruby": "python"}.get(
            language, language
        )
        assert guess_language(source) == expected, language
    assert guess_language("#!/usr/bin/env bash\nls") == "bash"
    assert guess_language("select a from t where b = 'x'") == "sql"
    for python in ("print(1)", "def f(:", "x = 1 +", "\ufeffprint(1)"):
        assert guess_language(python) == "python"
