"""The structure that docs/architecture.md claims, read from the syntax trees.

Every import counts, at whatever depth of a file and under TYPE_CHECKING too: a lazy import hides a
circle from Python, not from the reader.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PACKAGES = tuple(
    name
    for name in ("pipelines", "evals", "leaderboard", "dclm", "datacomp", "ambient")
    if (ROOT / name).is_dir()
)
BENCHMARKS = ("dclm", "datacomp", "ambient")

BELOW: Mapping[str, tuple[str, ...]] = {
    "pipelines": (),
    "evals": ("pipelines",),
    "leaderboard": ("evals", "pipelines"),
    **dict.fromkeys(BENCHMARKS, ("leaderboard", "evals", "pipelines")),
}
"""Which other packages a package may import. Benchmarks never import each other."""

# The rooms of each package from the ground up; an import goes to a lower line only, or stays inside
# its room. A room is a folder, or a file in the package's root.
LAYERS: Mapping[str, tuple[str, ...]] = {
    "pipelines": (
        "ending environment errors kernels retries schema templates yaml_text",
        "extra_fields extras opened_files",
        "records installed batch option_groups",
        "operators console verdict storage",
        "read_variables",
        "execution stats selection text image_text mixing participant_code",
        "dedup registry formats",
        "assets dclm_yaml_rules contract",
        "dclm_yaml",
        "pipeline",
        "job",
        "images",
        "sources",
        "global_steps",
        "engine",
        "scoring",
        "reports",
        "commands",
        "__main__",
    ),
    "evals": (
        "archives models pins remote",
        "tasks",
        "items",
        "kinds",
        "metrics suite nulls",
        "aggregate pinning data_check",
        "result_formats",
        "text",
        "controls loading",
        "run document_perplexity",
        "reports",
        "overlap_report",
        "decontamination",
        "images",
        "fetch overlap catalogue",
        "commands",
        "__main__",
    ),
    "leaderboard": (
        "rules benchmark",
        "submissions",
        "database",
        "board migrations",
        "service rounds",
        "published",
        "web",
        "__main__",
    ),
    "dclm": (
        "recipe options results model_database",
        "plan pool",
        "packing curation",
        "training",
        "eval_model",
        "commands mix_commands literature",
        "benchmark",
        "__main__",
    ),
    "ambient": (
        "recipe extra options diffusion",
        "systems pool plan",
        "packing estimates",
        "training",
        "eval_model",
        "image_grids",
        "track_commands",
        "commands",
        "benchmark",
        "__main__",
    ),
    "datacomp": (
        "recipe extra options results",
        "plan packing training pool",
        "eval_model",
        "curation",
        "pool_commands",
        "commands literature",
        "benchmark",
        "__main__",
    ),
}

THIRD_PARTY: Mapping[str, tuple[str, ...]] = {
    "ray": ("pipelines/execution/ray_", "pipelines/formats/ray_dataset"),
    "boto3": ("pipelines/storage/",),
    "botocore": ("pipelines/storage/",),
    "llvmlite": ("pipelines/kernels/",),
    "numba": ("pipelines/kernels/",),
    "fastwarc": ("pipelines/formats/warc", "dclm/pool/tiny_"),
    "resiliparse": ("pipelines/formats/warc", "pipelines/text/extraction", "dclm/pool/tiny_"),
    "fasttext": ("pipelines/text/quality",),
    "torch": (
        *(f"{name}/" for name in BENCHMARKS),
        "evals/text/huggingface",
        "evals/images/",
        "pipelines/image_text/",
        "pipelines/images/face_detector",
        "pipelines/text/model_scores",
        "leaderboard/rounds/train_",
    ),
    "diffusers": ("ambient/",),
    "open_clip": ("datacomp/", "evals/images/open_clip"),
    "webdataset": ("datacomp/",),
    "datasets": ("evals/fetch", "dclm/pool/", "datacomp/pool/"),
    "fastapi": ("leaderboard/web/",),
    "sqlalchemy": ("leaderboard/database/", "leaderboard/migrations/"),
}
"""Where a third party may be imported: path prefixes."""

OPERATORS = ("text", "image_text", "dedup", "kernels")
LOADS_THEM = (
    "pipelines/execution/ray_",
    "pipelines/formats/ray_dataset",
    "pipelines/kernels/",
    "pipelines/images/",
    "pipelines/formats/uid_",
    "pipelines/reports/sample_images",
    "evals/text/huggingface",
    "evals/images/open_clip",
    "evals/images/denoiser_answers",
    "evals/images/solvers",
    "evals/images/exact_denoisers",
    "evals/images/null_generators",
    "evals/images/posterior",
    "evals/images/sampling",
    "evals/images/short_texts",
    "evals/images/transforms",
    "evals/images/warp",
    "leaderboard/migrations/",
)
"""Modules that need one of ON_DEMAND; commands import them only when they need them."""


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's syntax tree."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


nodes = cache(nodes_of)
"""The same of a module of ours, kept: most tests here walk all of them."""


@pytest.fixture(scope="module", autouse=True)
def _forgets_syntax_trees() -> Iterator[None]:
    yield
    nodes.cache_clear()  # a hundred megabytes, which the tests after these need not have


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, at any depth."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            for alias in node.names:
                yield node.lineno, ".".join((*above, *filter(None, [node.module]), alias.name))


@cache
def arrows() -> dict[str, dict[str, int]]:
    """Module to imported module of ours, with the line."""
    known = modules()
    result: dict[str, dict[str, int]] = defaultdict(dict)
    for name, path in known.items():
        for line, target in imports(path):
            module = target if target in known else target.rpartition(".")[0]
            if module in known and module != name:
                result[name].setdefault(module, line)
    return result


def circles(graph: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """The sets of nodes that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, {}):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                result.append(sorted(members))

    for node in graph:
        if node not in index:
            visit(node)
    return result


def room_of(module: str) -> str:
    """The room of a module inside its package: `engine` for pipelines.engine.run."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_packages_import_only_what_lies_below_them() -> None:
    wrong = [
        f"{modules()[source].relative_to(ROOT)}:{line}: must not import {target}"
        for source, targets in arrows().items()
        for target, line in targets.items()
        if (ours := source.split(".")[0]) != (theirs := target.split(".")[0])
        and theirs not in BELOW[ours]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_circles() -> None:
    actual = circles(arrows())
    assert not actual, "\n".join(" <-> ".join(members) for members in actual)


def test_a_planted_circle_is_seen() -> None:
    assert circles({"a": {"b": 1}, "b": {"c": 1}, "c": {"a": 1}, "d": {"a": 1}}) == [
        ["a", "b", "c"]
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_inside_a_package_go_down(package: str) -> None:
    floors = {room: n for n, line in enumerate(LAYERS[package]) for room in line.split()}
    wrong = []
    for source, targets in arrows().items():
        for target, line in targets.items():
            if source.split(".")[0] != package or target.split(".")[0] != package:
                continue
            high, low = room_of(source), room_of(target)
            if high == low or not high or not low:
                continue
            if floors[low] >= floors[high]:
                wrong.append(f"{modules()[source].relative_to(ROOT)}:{line}: {high} -> {low}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_a_floor(package: str) -> None:
    rooms = {room_of(name) for name in modules() if name.split(".")[0] == package} - {""}
    assert rooms == {room for line in LAYERS[package] for room in line.split()}


def test_operators_know_nothing_of_executors_or_storage() -> None:
    allowed = {
        "errors",
        "schema",
        "records",
        "batch",
        "extra_fields",
        "operators",
        "retries",
        *OPERATORS,
        "selection",
    }
    wrong = [
        f"{modules()[source].relative_to(ROOT)}:{line}: an operator must not import {target}"
        for source, targets in arrows().items()
        for target, line in targets.items()
        if source.startswith("pipelines.")
        and room_of(source) in OPERATORS
        and room_of(target) not in allowed
        and target.startswith("pipelines.")
    ]
    assert not wrong, "\n".join(wrong)


def test_third_parties_stay_in_their_rooms() -> None:
    wrong = []
    for path in modules().values():
        name = path.relative_to(ROOT).as_posix()
        for line, module in imports(path):
            homes = THIRD_PARTY.get(module.split(".")[0])
            if homes is not None and not name.startswith(homes):
                wrong.append(f"{name}:{line}: {module} may only be imported in {', '.join(homes)}")
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def test_every_allowed_place_exists() -> None:
    places = [position for homes in (*THIRD_PARTY.values(), LOADS_THEM) for position in homes]
    there = [path.relative_to(ROOT).as_posix() for path in modules().values()]
    removed = [
        position
        for position in dict.fromkeys(places)
        if position.split("/")[0] in PACKAGES
        and not any(name.startswith(position) for name in there)
    ]
    assert not removed, f"no such files: {removed}"


def spelled(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every name and every string of a file that is no docstring."""
    prose = {
        id(node.value)
        for node in nodes(path)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name | ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.name


def test_no_benchmark_is_named_below_the_benchmarks() -> None:
    """Except `dclm_yaml`, the name of a file format, and of the modules that read it."""
    name = re.compile(rf"(?<![a-z])({'|'.join(BENCHMARKS)})(?![a-z]|_yaml)")
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]!r}"
        for module, path in modules().items()
        if module.split(".")[0] not in BENCHMARKS
        for line, text in spelled(path)
        if name.search(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_test_has_the_path_of_the_module_it_tests() -> None:
    """Except tests of behaviour that crosses modules: folders `behaviour`, `soak`, `deploy`."""
    wrong = []
    for path in sorted((ROOT / "tests").glob("*/**/test_*.py")):
        parts = path.relative_to(ROOT / "tests").parts
        if {"behaviour", "soak", "deploy", "examples"} & set(parts):
            continue
        module = ROOT.joinpath(*parts[:-1], parts[-1].removeprefix("test_"))
        if not module.exists() and not module.with_name(f"__{module.stem}__.py").exists():
            wrong.append(f"{path.relative_to(ROOT)}: there is no {module.relative_to(ROOT)}")
    assert not wrong, "\n".join(wrong)


def test_every_test_that_the_page_on_reliability_names_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(tests/[\w/.]+|test_\w+\.py)`", page)
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 50
    assert [name for name in named if not (ROOT / name).exists() and name not in files] == []


def test_files_and_functions_stay_short() -> None:
    """Nine files of ten, and every function outside the kernels: in a kernel a call costs."""
    lines = sorted(len(path.read_text().splitlines()) for path in modules().values())
    lines = [number for number in lines if number]
    assert lines[int(0.9 * len(lines))] <= 400
    assert lines[-1] <= 550
    long = [
        f"{name}.{node.name}: {length} lines"
        for name, path in modules().items()
        if not name.startswith("pipelines.kernels.")
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 105
    ]
    assert long == []


MARKUP = re.compile(r"<(svg|div|table|tr|td|html|body|rect|line|circle|polyline|text|h[1-3]|p)[ >]")
MAKES_INPUT = ("dclm/pool/tiny_pages.py", "datacomp/pool/tiny_images.py")
"""Files that make pages to extract, and drawings to render, for a tiny pool."""


def test_markup_comes_from_templates() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{part.lineno}"
        for path in modules().values()
        if not path.relative_to(ROOT).as_posix().startswith(MAKES_INPUT)
        for node in nodes(path)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
        if isinstance(part, ast.Constant) and MARKUP.search(str(part.value))
    ]
    assert wrong == []


BANNED = re.compile(
    r"\b(trainings|mend(s|ed)?|goes on|what came of it|stood|told|that is none|holds? zero"
    r"|(?<!to )lies? (in|at|below|beside|next to|over|among|together|there|side))\b",
    re.IGNORECASE,
)


def test_banned_words_stay_out_of_prose() -> None:
    """Of the code and the pages; STYLE's table has what to say instead."""
    paths = [*modules().values(), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := BANNED.search(line))
    ]
    assert wrong == []


VAGUE_NAMES = frozenset(("found", "one", "place", "told", "wanted", "gone", "held"))
"""Names that say how a value was met, and not what it is."""


NAMED_NODES = (
    ast.ExceptHandler,
    ast.MatchAs,
    ast.MatchStar,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
)


def vague_names(walked: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Variables and parameters of these names; fields of a class are public, and may have them."""
    for node in walked:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, NAMED_NODES):
            name = node.name or ""
        else:
            continue
        if name in VAGUE_NAMES:
            yield node.lineno, name


def class_fields(walked: Iterable[ast.AST]) -> set[int]:
    """The lines of annotated fields in class bodies."""
    return {
        statement.lineno
        for node in walked
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
    }


def test_variables_are_named_for_what_they_hold() -> None:
    folders = (*PACKAGES, "tests", "benches", "examples", "docs", "deploy")
    vague = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            walked = nodes(path) if folder in PACKAGES else nodes_of(path)
            fields = class_fields(walked)
            vague += [
                f"{path.relative_to(ROOT)}:{line}: {name}"
                for line, name in vague_names(walked)
                if line not in fields
            ]
    assert vague == []


def test_a_vague_name_is_seen_wherever_it_is_bound() -> None:
    code = """
class Fault:
    found: str
def found(one, *, told=1):
    held, (place, x) = one
    for wanted in x: pass
    try: pass
    except ValueError as gone: pass
    return [one for one in x], lambda place: 1
"""
    names = [name for line, name in vague_names(ast.walk(ast.parse(code))) if line != 3]
    assert sorted(names) == sorted(
        ["found", "one", "told", "held", "place", "wanted", "gone", "one", "place"]
    )
