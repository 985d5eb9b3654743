"""Write docs/reference/: every group, choice and key, from configs/, the schema and docstrings.

`python docs/reference.py` writes the pages, `--check` says which are out of date. As a hook of
MkDocs it stops a build whose pages are out of date. A key without an explanation is an error: a
comment in its YAML, or an entry of `Args:` in the docstring of its class, explains it.
"""

from __future__ import annotations

import ast
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bmo_cli.config import checks, schema  # noqa: E402
from bmo_cli.config.signature import read_signature  # noqa: E402

CONFIGS = ROOT / "configs"
PAGES = ROOT / "docs" / "reference"

GROUPS = {
    "task": "A task poses the problems: the data, the degradation, the loss and the scores.",
    "gkm": "The scheme of the generalised Krasnoselskii-Mann (GKM) iteration: a numerical "
    "operator, and the network that follows it. [The method](../method.md) has the formulas.",
    "net": "The network of the scheme. `crr`, `guided`, `guided_layers`, `lip`, `norm_conv` and "
    "`none` are nonexpansive by construction; the others need not be.",
    "hyper": "The hyper-optimiser: how the gradient of the loss with respect to everything learned "
    "is computed. The default is bilevel meta optimisation (BMO); `task=deconv` takes `truncated`.",
    "data": "The photographs of a run. [Data sets](../data-sets.md) describes their files.",
    "optim": "The optimiser of hyper-training: any class of `torch.optim` that takes a learning "
    "rate.",
    "logger": "What receives the history of a run beside `history.csv`. It changes no number.",
    "recipe": "Settings of a combination of task, network, operator and hyper-optimiser, whose "
    "names in this order select it. Other combinations have no recipe.",
    "method": "A published method as one word. It chooses task, operator, network and "
    "hyper-optimiser, and sets some of their keys.",
    "experiment": "A prepared experiment: some choices and keys at once.",
    "debug": "Settings for trying things out.",
    "hydra/launcher": "Where the jobs of a sweep (`-m`) run. The default runs each in a process of "
    "its own on this machine, `jobs` at a time.",
    "hydra/sweeper": "What chooses the jobs of a sweep. The default takes every combination.",
}
"""Groups with a line about each; every folder of configs/ but `table` and Hydra's logging."""

COMMANDS = {
    "train": "Keys of a run. A task, a recipe, a method or an experiment may set other values than "
    "the defaults below; `bmo train --cfg job` shows those of a run.",
    "eval": "Keys of `bmo eval` beside those of the run.",
    "certify": "Keys of `bmo certify`. It also takes `device`, `plugins` and the places of the "
    "data (`data.val=DIR` and the like), and no other key.",
    "restore": "Keys of `bmo restore` beside those of the run.",
    "audit": "Keys of `bmo audit`.",
    "table": "Keys of `bmo table`.",
}
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w() =,.-]+?):(?P<rest>.*)$")


@dataclass(frozen=True)
class Entry:
    """A key of a YAML file: its dotted name, its value as written, and its comment."""

    key: str
    value: str
    comment: str


@dataclass(frozen=True)
class Choice:
    """A YAML file of a group.

    Attributes:
        name: of the choice.
        about: its first comment.
        is_global: whether its keys are those of the whole configuration.
        choices: of other groups that it makes.
        entries: its keys, with those of the choice that it extends.
    """

    name: str
    about: str
    is_global: bool
    choices: Mapping[str, str]
    entries: tuple[Entry, ...]

    def target(self, prefix: str) -> str | None:
        """The class that the node at `prefix` builds."""
        wanted = f"{prefix}._target_".lstrip(".")
        return next((e.value for e in self.entries if e.key == wanted), None)


def read_entries(text: str) -> Iterator[Entry]:
    """The keys of a YAML file, without its defaults list and Hydra's own section."""
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = _KEY.match(line.split(" #")[0].rstrip())
        if found is None or line.lstrip().startswith(("#", "-")):
            continue
        indent = len(found["indent"])
        path = [*(part for part in path if part[0] < indent), (indent, found["key"])]
        if path[0][1] in ("defaults", "hydra"):
            continue
        comment = line.split(" #", 1)[1].strip() if " #" in line else ""
        yield Entry(".".join(part for _, part in path), found["rest"].strip(), comment)


def read_choice(group: str, name: str) -> Choice:
    """One choice of a group, with what it takes from another choice of the same group."""
    text = (CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8")
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    is_global = any(line.startswith("@package _global_") for line in comments)
    about = next(line for line in comments if not line.startswith("@package"))
    choices: dict[str, str] = {}
    entries: dict[str, Entry] = {}
    for item in (yaml.safe_load(text) or {}).get("defaults", []):
        if isinstance(item, dict):
            ((key, value),) = item.items()
            choices[key.removeprefix("override ").removeprefix("/")] = str(value)
        elif (CONFIGS / group / f"{item}.yaml").exists():
            entries |= {entry.key: entry for entry in read_choice(group, item).entries}
        else:
            choices[group] = item
    for entry in read_entries(text):
        base = entries.get(entry.key)
        comment = entry.comment or (base.comment if base else "")
        entries[entry.key] = Entry(entry.key, entry.value, comment)
    return Choice(name, about, is_global, choices, tuple(entries.values()))


def choices_of(group: str) -> list[Choice]:
    """Every choice of a group."""
    return [read_choice(group, file.stem) for file in sorted((CONFIGS / group).glob("*.yaml"))]


def allowed(annotation: Any) -> str:
    """The values that an annotation of `config.checks` allows, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        interval = next(rule for rule in arguments[1:] if isinstance(rule, checks.Interval))
        text = re.sub(r"^(be |lie )(an? |finite and )?(finite )?", "", interval.text)
        return text if text.startswith(("integer", "number")) else f"number {text}"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        parts = [allowed(part) for part in arguments if part is not type(None)]
        return " or ".join([*parts, "null"] if type(None) in arguments else parts)
    if origin is tuple and Ellipsis not in arguments:
        return f"[{', '.join(allowed(part) for part in arguments)}]"
    if origin in (list, tuple) or getattr(origin, "__name__", "") == "Sequence":
        return f"list, each {allowed(arguments[0])}" if arguments else "list"
    if origin is dict or annotation is dict:
        return "mapping"
    names = {float: "number", int: "integer", bool: "true or false", str: "text"}
    if annotation in (checks.Part, schema.Target):
        return "a group"
    return names.get(annotation, "")


def explained(target: str) -> dict[str, str]:
    """Arguments of a class, explained by its docstring and those of its bases in the same file."""
    module, _, name = target.rpartition(".")
    file = ROOT / f"{module.replace('.', '/')}.py"
    if not file.exists():
        return {}
    classes = {
        node.name: node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    found: dict[str, str] = {}
    while name in classes:
        found = _arguments(ast.get_docstring(classes[name]) or "") | found
        base = next((b.id for b in classes[name].bases if isinstance(b, ast.Name)), "")
        name = base if base in classes else ""
    return found


def _arguments(docstring: str) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", docstring, flags=re.M)
    found = {}
    for item in re.split(r"\n(?=    \S)", section[1].rstrip()) if section else ():
        names, _, text = item.strip().partition(":")
        for name in names.split(","):
            found[name.strip()] = " ".join(text.split())
    return found


def field_comments(section: type) -> dict[str, str]:
    """Fields of a dataclass of the schema with the strings below them."""
    tree = ast.parse(Path(schema.__file__).read_text(encoding="utf-8"))
    nodes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names = [base.__name__ for base in reversed(section.__mro__)]
    return {k: v for name in names if name in nodes for k, v in _field_comments(nodes[name])}


def _field_comments(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for item, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            text = ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = str(below.value.value)
            yield item.target.id, " ".join(text.split())


COMMON = {
    "seed": "of random numbers",
    "channels": "of the images the network works on: 1 gray, 3 colour",
}
"""Arguments that mean the same in every class."""


class Unexplained(Exception):
    """A key that no comment and no docstring explains."""


def row(key: str, value: str, annotation: Any, comment: str) -> str:
    """A line of a table of keys."""
    if not comment:
        raise Unexplained(
            f"{key} has no explanation: write a comment behind it in configs/, or an entry of "
            "Args: in the docstring of its class"
        )
    shown = re.sub(r"\$\{oc\.env:(\w+),null\}", r"`\1`", value)
    shown = re.sub(r"\$\{(.*?)\}", r"as `\1`", shown)
    default = shown if "`" in shown else f"`{value}`" if value else ""
    cells = [f"`{key}`", default, allowed(annotation), escaped(comment.removesuffix("."))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def escaped(text: str) -> str:
    """Text of a comment as Markdown."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_<\[\]])", r"\\\1", p) for p in parts)


def sentence(text: str) -> str:
    """A comment as Markdown that begins with a capital letter."""
    return escaped(text[0].upper() + text[1:])


HEAD = "| key | default | allowed | meaning |\n|---|---|---|---|"


def keys_of(choice: Choice, prefix: str, shown: str) -> list[str]:
    """Rows of the node at `prefix` (as the choice writes it), named `shown` on the command line."""
    target = choice.target(prefix)
    dotted = f"{prefix}." if prefix else ""
    own = {
        entry.key.removeprefix(dotted): entry
        for entry in choice.entries
        if entry.key.startswith(dotted)
    }
    annotations: dict[str, Any] = {}
    said: dict[str, str] = dict(COMMON)
    if target is not None and target.startswith("bmo_cli."):
        annotations, said = dict(read_signature(target).annotations), COMMON | explained(target)
    elif target is not None:
        annotations = dict(schema._TORCH_ARGUMENTS)
    rows = []
    for key, entry in own.items():
        if "." in key or key == "_target_":
            continue
        if entry.value:
            comment = entry.comment or said.get(key, "")
            rows.append(row(f"{shown}.{key}", entry.value, annotations.get(key), comment))
        else:
            rows += keys_of(choice, f"{dotted}{key}", f"{shown}.{key}")
    given = {*own, *schema.GIVEN.get(shown, ())}
    parts = {key for key in annotations if annotations[key] is checks.Part}
    if target is not None and target.startswith("bmo_cli."):
        for key in sorted(set(annotations) - given - parts - {"data"}):
            if key in said and not _is_wired(target, key):
                rows.append(row(f"{shown}.{key}", "", annotations[key], said[key]))
            elif not _is_wired(target, key):
                raise Unexplained(f"{shown}.{key} of {target} has no explanation")
    return rows


def _is_wired(target: str, key: str) -> bool:
    """Arguments that the program itself gives, so that no configuration has them."""
    return (target.rsplit(".", 1)[-1], key) in {
        ("GKM", "layers"),
        ("GKM", "net"),
        ("Layers", "background"),
        ("Layers", "rain"),
    }


def api_link(target: str) -> str:
    """A link to the class in the reference of the Python interface."""
    if not target.startswith("bmo_cli."):
        return f"`{target}`"
    package = target.split(".")[1]
    return f"[`{target.rsplit('.', 1)[-1]}`](../api/{package}.md#{target})"


def also_sets(choice: Choice, own: str) -> list[str]:
    """What a choice sets outside of its own section."""
    words = [f"`{key}={value}`" for key, value in choice.choices.items()]
    words += [
        f"`{entry.key}={entry.value}`"
        for entry in choice.entries
        if entry.value and choice.is_global and not entry.key.startswith(f"{own}.")
    ]
    return words


def _typed(group: str, name: str) -> str:
    """A choice as it is typed; a recipe is not typed, but follows from its name."""
    return name if group == "recipe" else f"{group}={name}"


def group_page(group: str) -> str:
    """The page of a group."""
    lines = [f"# `{group}`", "", GROUPS[group], ""]
    choices = choices_of(group)
    lines += ["| choice | |", "|---|---|"]
    for choice in choices:
        about = escaped(choice.about).replace("|", "\\|")
        lines.append(f"| `{_typed(group, choice.name)}` | {about} |")
    for choice in choices:
        lines += ["", f"## `{_typed(group, choice.name)}`", "", f"{sentence(choice.about)}.", ""]
        prefix = group if choice.is_global else ""
        target = choice.target(prefix)
        if target is not None:
            inner = choice.target(f"{prefix}.operator".lstrip("."))
            classes = [api_link(name) for name in (target, inner) if name is not None]
            lines += [f"Class: {', operator '.join(classes)}.", ""]
        if sets := also_sets(choice, group):
            lines += [f"{'Sets' if group in OVERLAYS else 'Also sets'} {', '.join(sets)}.", ""]
        if group not in OVERLAYS and (rows := keys_of(choice, prefix, group.replace("/", "."))):
            lines += [HEAD, *rows, ""]
    if group == "optim":
        lines += ["", "## Any other optimiser", "", TORCH, ""]
        lines += ["| key | allowed |", "|---|---|"]
        lines += [f"| `optim.{k}` | {allowed(v)} |" for k, v in schema._TORCH_ARGUMENTS.items()]
        lines.append("| any other key of that class | |")
    return finished(lines)


TORCH = (
    "`optim._target_=torch.optim.NAME` chooses any other class of `torch.optim`. It takes these "
    "keys, as far as that class has them. A key of the default that the class does not take is "
    "dropped with `'~optim.betas'`."
)
OVERLAYS = ("recipe", "method", "experiment", "debug")


def section_rows(
    prefix: str, section: type, entries: Mapping[str, Entry], defaults: Mapping[str, str | None]
) -> Iterator[str]:
    """Rows of a section of the schema; `defaults` are the choices of its groups."""
    said, hints = field_comments(section), typing.get_type_hints(section, include_extras=True)
    for name, hint in hints.items():
        key = f"{prefix}{name}"
        nested = schema._group_type(hint) or hint
        if nested is schema.Table:
            yield "| `table` | | a group | the table: `bmo table NAME`, see [`table`](table.md) |"
        elif nested is schema.Target:
            default = defaults.get(key)
            yield f"| `{key}` | `{default or 'null'}` | a group | see [`{key}`]({key}.md) |"
        if nested in (schema.Table, schema.Target):
            continue
        if is_dataclass(nested):
            yield from section_rows(f"{key}.", typing.cast(type, nested), entries, defaults)
            continue
        entry = entries.get(key, Entry(key, "", ""))
        comment = entry.comment or said[name]
        yield row(key, entry.value, hint, comment)


def command_page() -> str:
    """The page of the commands and of the keys outside of every group."""
    lines = ["# Commands and their keys", "", COMMANDS_INTRO, ""]
    of_a_run: set[str] = set()
    every: dict[str, Entry] = {}
    defaults: dict[str, str | None] = {}
    for command, about in COMMANDS.items():
        text = (CONFIGS / f"{command}.yaml").read_text(encoding="utf-8")
        found = {entry.key: entry for entry in read_entries(text)}
        entries = found if command in ("audit", "table") else every | found
        every |= found
        chosen = {
            key: value
            for item in yaml.safe_load(text)["defaults"]
            if isinstance(item, dict)
            for key, value in item.items()
        }
        if command == "train":  # the default task chooses some of the groups
            chosen |= read_choice("task", chosen["task"]).choices
        defaults = chosen if command in ("audit", "table") else (defaults | chosen)
        rows = list(section_rows("", schema.SCHEMAS[command], entries, defaults))
        if command == "train":
            links = (f"[`{group}`]({group}.md)" for group in OVERLAYS)
            names = ", ".join(f"`{group}`" for group in OVERLAYS)
            rows.insert(0, f"| {names} | `null` | a group | see {', '.join(links)} |")
            of_a_run = set(rows)
        elif command == "certify":
            rows = [r for r in rows if r.startswith(("| `run`", "| `certificate."))]
        elif command in ("eval", "restore"):
            rows = [r for r in rows if r not in of_a_run]
        lines += [f"## `bmo {command}`", "", about, "", HEAD, *rows, ""]
    lines += OF_RUNS.splitlines()
    return finished(lines)


COMMANDS_INTRO = """\
Every key is changed on the command line as `KEY=VALUE`, a nested one with dots, as in
`train.steps=100`. A group takes the name of a choice, as in `net=lip`. `bmo COMMAND --help` prints
the same choices and keys, and `--cfg job` the configuration that the words on the command line
make. An unknown key, a value of a wrong type and a value outside of its range are refused by name
before torch is imported."""

OF_RUNS = """\
## `bmo runs`, `bmo compare`, `bmo report`

These three read run folders and take no configuration. They accept folders and filters
`COLUMN=VALUE[,VALUE ...]`; `--help` lists the columns. `bmo runs` and `bmo compare` print CSV with
`--csv`. `bmo compare` takes `metric=NAME`, `better=larger|smaller`, `against=LABEL` and `--anyway`,
`bmo report` takes `output=FILE`, `title=TEXT` and `--force`."""


def table_page() -> str:
    """The page of `configs/table/`."""
    lines = ["# `table`", "", TABLES, "", "| table | | presets |", "|---|---|---|"]
    files = sorted((CONFIGS / "table").glob("*.yaml"))
    for file in files:
        text = file.read_text(encoding="utf-8")
        about = text.splitlines()[0].lstrip("# ")
        presets = ", ".join(f"`{name}`" for name in yaml.safe_load(text).get("presets", {}))
        lines.append(f"| `bmo table {file.stem}` | {escaped(about)} | {presets} |")
    for name, section in (
        ("table", schema.Table),
        ("table.presets.NAME", schema.Preset),
        ("table.published[N]", schema.Published),
        ("table.claims[N]", schema.Claim),
    ):
        lines += ["", f"## Keys of `{name}`", "", "| key | allowed | meaning |", "|---|---|---|"]
        said = field_comments(section)
        for key, hint in typing.get_type_hints(section, include_extras=True).items():
            if not said[key]:
                raise Unexplained(f"{name}.{key} has no explanation in the schema")
            cells = [f"`{name}.{key}`", allowed(hint), escaped(said[key])]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return finished(lines)


TABLES = (
    "A table is a YAML file of `configs/table/`: rows, columns, and the scores that a cell shows. "
    "[Runs, sweeps, faults](../runs.md) says how `bmo table` runs one."
)
_GENERATED = "<!-- Written by docs/reference.py from configs/ and the schema: do not edit. -->"


def finished(lines: list[str]) -> str:
    """The text of a page."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join([_GENERATED, "", *lines]).rstrip()) + "\n"


def pages() -> dict[Path, str]:
    """Every page of the reference with its text."""
    found = {PAGES / "commands.md": command_page(), PAGES / "table.md": table_page()}
    for group in GROUPS:
        found[PAGES / f"{group.rpartition('/')[2]}.md"] = group_page(group)
    return found


def outdated() -> list[Path]:
    """Pages whose file is missing, old, or of a group that is no more."""
    wanted = pages()
    old = [p for p, text in wanted.items() if not p.exists() or p.read_text("utf-8") != text]
    return [*old, *(file for file in PAGES.glob("*.md") if file not in wanted)]


def on_pre_build(config: object) -> None:
    """Hook of MkDocs: stop where a page is out of date or a key has no explanation."""
    from mkdocs.exceptions import PluginError

    try:
        old = outdated()
    except Unexplained as error:
        raise PluginError(str(error)) from error
    if old:
        names = ", ".join(str(page.relative_to(ROOT)) for page in old)
        raise PluginError(f"out of date: {names}; run python docs/reference.py")


def on_post_page(output: str, page: Any, config: object) -> None:
    """Hook of MkDocs: stop where a page would load something from another host."""
    from mkdocs.exceptions import PluginError

    if loaded := _FROM_ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {loaded[0]}")


_FROM_ELSEWHERE = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
)


def main() -> None:
    """Write the pages, or with `--check` say which are out of date."""
    try:
        old = outdated()
    except Unexplained as error:
        sys.exit(str(error))
    if "--check" in sys.argv[1:]:
        if old:
            sys.exit("out of date: " + ", ".join(str(p.relative_to(ROOT)) for p in old))
        return
    PAGES.mkdir(exist_ok=True)
    wanted = pages()
    for page in old:
        if page in wanted:
            page.write_text(wanted[page], encoding="utf-8")
        else:
            page.unlink()


if __name__ == "__main__":
    main()
