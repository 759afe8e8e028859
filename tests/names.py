"""Answers as people give them, by what is special about them: texts, slugs and packages."""

from __future__ import annotations

# Texts that are taken, and stand in every file as they were typed.
TEXTS = {
    "yaml words": (
        "yes no on off true false null ~ Yes NO On OFF True FALSE Null y n .inf .nan 0x1F 0o17 1e3 "
        "1_000 012 12:30:45 2024-11-01 <<"
    ).split(),
    "yaml marks": [
        *("- item", "? key", "a: b", "a:", ": a", "a #b", "#a", "&anchor", "*alias", "!tag"),
        *("!!str a", "|", ">", "|-", ">+", "%YAML 1.2", "@at", "`tick", "---", "...", "[a, b]"),
        *("{a: b}", "{}", "[]", ",", "a, b", "'", '"', "''", '""', "= x", "---a", "?"),
    ],
    "toml escapes": [
        *("\\", "\\\\", "a\\b", "\\n", "\\t", "\\u0041", "\\U0001F6EB", "\\x41", "\\e", 'say "x"'),
        *('"""', "'''", '\\"', "C:\\new\\table", "[table]", "[[array]]", "a.b = 1", "\\ud800"),
    ],
    "quotes": [
        *("it's", "'a'", '"a"', "‘a’", "“a”", "„a“", "«a»", "`a`", "a''b", 'a""b', "'\"'", "´a´"),
        *("f'{x}'", 'r"\\"', "b''", "5' 11\"", "O'Neil & Söhne"),
    ],
    "markdown": [
        *("# a", "## a", "a #", "a ##", "#", "##", "# #", "* a", "*a*", "**a**", "_a_", "__a__"),
        *("***", "- - -", "___", "~~a~~", "~", "~~~", "```", "``a``", "> a", ">", "1. a", "1) a"),
        *("10. a", "+ a", "+", "-", "=", "==", "[a](b)", "![a](b)", "[a]: b", "[^1]", "<b>a</b>"),
        *("<!-- a -->", "<https://a.org>", "https://a.org", "http://a", "www.a.org", "a@b.org"),
        *("mailto:a@b", "ftp://a", "&amp;", "&#35;", "& a", "a & b", "&lt;b&gt;", "| a | b |"),
        *("|-|", "$x$", "$$x$$", "a  b", "\\*a\\*", "- [ ] a", ":+1:", "^a^", "==a==", "H~2~O"),
        *("a<br>b", "\\", "2 * 3 * 4", "snake_case_name", "C# and F#", "@somebody", "Term :"),
    ],
    "jinja and formats": [
        *("{", "}", "{ {", "} }", "}}", "%}", "#}", "{ % a % }", "{0}", "{a}", "{a!r}", "%s"),
        *(
            "%(a)s",
            "%%",
            "${a}",
            "$a",
            "$(a)",
            "$",
            "{ }",
            "a{b}c",
            "{'a': 1}",
            "{[a]}",
            "<%= a %>",
        ),
    ],
    "shells and paths": [
        *(
            "a; rm -rf b",
            "a && b",
            "a || b",
            "a | b",
            "a > b",
            "`a`",
            "!!",
            "!a",
            "a*",
            "a?",
            "~/a",
        ),
        *(
            "../..",
            "/etc/passwd",
            "C:\\temp",
            "\\\\server\\share",
            "%PATH%",
            "-rf",
            "--help",
            "a=b",
        ),
        *(
            "con",
            "NUL",
            "aux.txt",
            "a:b",
            "a.",
            "a..b",
            "'; DROP TABLE a; --",
            "<script>a</script>",
        ),
    ],
    "python": [
        *("class", "None", "True", "import os", "__import__('os')", "exec('a')", "print(1)"),
        *("lambda: 0", "# type: ignore", "# noqa", "# fmt: off", "a = 1", "\\N{BULLET}", "0"),
    ],
    "scripts": [
        *("über", "Straße", "naïve café", "Çığır", "Łódź", "Ærø", "Ελλάδα", "Москва", "Київ"),
        *("日本", "飛行機の遅れ", "항공편 지연", "飞机晚点", "नमस्ते", "ไทย", "தமிழ்", "ქართული"),
        *("հայերեն", "አማርኛ", "বাংলা", "ລາວ", "ᏣᎳᎩ", "မြန်မာ", "සිංහල", "Tiếng Việt"),
    ],
    "right to left": [
        "مرحبا",
        "שלום",
        "a مرحبا b",
        "שלום 12",
        "(مرحبا)",
        "تأخر الرحلات 15",
        "فارسی",
    ],
    "unicode": [
        *("🛫", "a🛫", "🇩🇪", "👍🏽", "𝔘𝔫𝔦", "ﬁ", "Ⅷ", "½", "²", "№ 5", "µ", "Ω", "Å", "e\u0301"),
        *("a\u0308o\u0308", "İ", "ı", "ǆ", "…", "–", "—", "•", "→", "€", "™", "©", "�", "＃"),
        *("１２", "ａｂ", "a\u00a0b", "a\u3000b", "a\u2009b", "\u0430\u0430", "x" * 200, "é" * 80),
    ],
    "like an answer": [
        *("Flight Delays", "Test", "2024 Sales", "a", "I", "A.I.", "R&D", "Q&A", "24/7", "50 %"),
        *("Team A / Team B", "Data Team", "Who? Me!", "(draft)", "v1.2.3", "a_b", "a-b", "#1"),
    ],
}

# Texts that no file can carry, or no reader see, by what the refusal says.
REFUSED_TEXTS = {
    "is empty": ["", " ", "  ", "\u3000", "\u00a0", "\t", "\n"],
    "begins or ends with a space": [" a", "a ", "a\u00a0", "\u3000a", "\na", "a\r\n", "\u2003a"],
    "line break or control character": [
        *(f"a{chr(code)}b" for code in range(0x20)),
        *("a\x7fb", "a\x85b", "a\x80b", "a\x9fb", "a\u2028b", "a\u2029b", "a\ud800b", "a\udfffb"),
        *("a\r\nb", "a\x1b[31mb"),
    ],
    "invisible character U+": [
        *(f"a{chr(code)}b" for code in range(0x200B, 0x2010)),  # zero width, and marks
        *(f"a{chr(code)}b" for code in range(0x202A, 0x202F)),  # embeddings and overrides
        *(f"a{chr(code)}b" for code in range(0x2060, 0x2065)),  # joiners and operators
        *(f"a{chr(code)}b" for code in range(0x2066, 0x2070)),  # isolates
        *("a\ufeffb", "a\u00adb", "a\u061cb", "a\u180eb", "a\ufff9b", "a\ufffbb", "a\U000e0041b"),
        *("a\u034fb", "a\u115fb", "a\u1160b", "a\u17b4b", "a\u17b5b", "a\u2800b", "a\u3164b"),
        *("a\uffa0b", "a\ue000b", "a\U000f0000b", "a\u0378b", "a\ufffeb", "a\U0001ffffb"),
    ],
    "template code": [
        *("{{ cookiecutter }}", "{{", "a {{b", "{% if x %}", "a {%b", "{# a", "{#", "{{{ a }}}"),
        *("{%- raw -%}", "${{ a }}", "{{''.__class__}}"),
    ],
}

GOOD_SLUGS = [
    *("a", "a1", "z9", "a-b-c", "x" * 40, "flight-delays-2", "tests-of-time", "yes-no", "on-time"),
    *("off-peak", "nullable", "truth", "my-test", "test2", "json-5", "classes", "comet", "com10"),
    *("lpt0", "auxiliary", "console", "github-stars", "awsome", "javanese", "churn", "credit-risk"),
    *("demand", "spam", "iris", "a-1", "x-" * 19 + "yz", "python-delays", "a0-b1-c2", "q"),
]

# Slugs that are no name at all.
NOT_A_NAME = [
    *("", "-", "-a", "a-", "a--b", "1a", "2024-sales", "A", "a_b", "a.b", "a b", "a/b", "../a"),
    *("..", "~", "a\n", "a\nb", 'a"b', "a'b", "a\\b", "$(x)", "{{ x }}", "a;b", "a\0b", "a²"),
    *("ä", "ﬁ", "\u0430-cyrillic", "a\u200bb", "日本", "a\u0301", "ａ", "0", "007", "-", "--help"),
    *(".", ".git", "~a", "a~", "a:b", "a*", "a?", "a|b", "a<b", "a>b", "C:", "con.txt", "a\tb"),
    *(
        " a",
        "a ",
        "A-B",
        "aB",
        "a-B",
        "a&b",
        "a%b",
        "a#b",
        "a@b",
        "a+b",
        "a,b",
        "a=b",
        "[a]",
        "{a}",
    ),
    *("a\u202eb", "🛫", "𝔞", "ı", "a\u00a0b", "a-_b", "_a", "__init__"),
]

# Slugs that something else has, by what the refusal says.
REFUSED_SLUGS = {
    "40": ["x" * 41, "x" * 200, "a-" * 20 + "bc"],
    "keyword of Python": (
        "and as assert async await break class continue def del elif else except finally for from "
        "global if import in is lambda nonlocal not or pass raise return try while with yield"
    ).split(),
    "device on Windows": (
        "aux con nul prn com1 com2 com3 com4 com5 com6 com7 com8 com9 "
        "lpt1 lpt2 lpt3 lpt4 lpt5 lpt6 lpt7 lpt8 lpt9"
    ).split(),
    "word that YAML": "yes no on off true false null y n".split(),
    "part of the rendered project": (
        "conf src tests ci docs bootstrap noxfile notebooks requirements benchmarks"
    ).split(),
    "program in the project's environment": (
        "python python3 activate deactivate pip3 dmypy f2py jlpm stubgen ttx uvx jupyter-lab "
        "jupyter-kernel lint-imports cffi-gen-src cmark debugpy-adapter gunicornc ipython3 "
        "mako-render markdown-py normalizer numpy-config pb pybabel pyftmerge pyftsubset "
        "pygmentize sqlformat st wsdump"
    ).split(),
    "prefix of other programs' environment variables": (
        "github java home aws kubernetes conda runner actions spark azure gitlab kafka node npm "
        "ssh system user xdg lc https"
    ).split(),
}

# Packages that an interpreter or the project's environment has.
STANDARD = (
    "test json statistics imp distutils antigravity idlelib tomllib this site lib2to3 "
    "annotationlib abc argparse array ast asyncio asynchat asyncore audioop base64 bisect builtins "
    "calendar cgi cgitb chunk cmd code codecs collections compression copy crypt csv ctypes curses "
    "dataclasses datetime decimal difflib dis email enum errno fractions functools gc getpass glob "
    "graphlib gzip hashlib heapq html http imaplib imghdr inspect io ipaddress itertools locale "
    "logging mailcap math mimetypes mmap msilib nis nntplib numbers operator optparse os pathlib "
    "pdb pickle pipes platform profile queue random re sched secrets select shelve shutil signal "
    "smtpd sndhdr socket spwd sqlite3 ssl stat string struct sunau sys tarfile telnetlib tempfile "
    "threading time timeit tkinter token trace turtle types typing unittest urllib uu uuid venv "
    "warnings wave weakref xdrlib xml zipapp zipfile zlib zoneinfo"
).split()
INSTALLED = (
    "polars sklearn mlflow pip setuptools pkg_resources yaml attr pil dateutil zmq mlflow_skinny "
    "scikit_learn adbc_driver_manager aiohttp alembic altair annotated_types anyio apprise arro3 "
    "attrs babel blinker cachetools certifi cffi charset_normalizer click cloudpickle colorlog "
    "contourpy cryptography cycler databricks debugpy deltalake docker dotenv executing fastapi "
    "fastjsonschema flask flask_cors fonttools frozenlist gitdb google granian graphene graphql "
    "great_tables gunicorn h11 htmltools huey hypothesis idna ipykernel ipython itsdangerous jedi "
    "jinja2 joblib jsonschema jupyter_client jupyter_core kiwisolver lightgbm lmdb mako markdown "
    "markdown_it markupsafe matplotlib mdurl mpl_toolkits msgspec multidict narwhals nbclient "
    "nbformat numpy oauthlib opentelemetry optuna packaging pandas parso pexpect pillow "
    "platformdirs pluggy pointblank prometheus_client propcache psutil ptyprocess pure_eval "
    "pyarrow pyasn1 pycparser pydantic pydantic_core pydantic_settings pygments pylab pyparsing "
    "pytest referencing requests rich rpds schemathesis scipy shellingham "
    "six skops smmap sqlalchemy sqlparse stack_data starlette threadpoolctl tornado tqdm "
    "traitlets typer typing_extensions urllib3 uvicorn vl_convert wcwidth websockets werkzeug "
    "wrapt yarl zipp"
).split()
PACKAGES = {
    "Python's standard library": STANDARD,
    "library that the project installs": INSTALLED,
}
