"""Writes docs/howto/protocols.md: what every preset with a published name follows, from the searches themselves.

    python docs/scripts/protocols.py

A test compares the page with what this writes.
"""

from __future__ import annotations

from pathlib import Path

from hep_ray.search.find import load_search

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/howto/protocols.md"
HEAD = """# Published protocols

Which settings of a preset follow its document, which are ours, and where the document is silent, or is not known to us,
and what is taken there. `--dry-run` prints the same before anything starts. Published numbers stand beside ours only
where the task, the classes and the kind of input are theirs; what else differs is under *ours*.

Written by `python docs/scripts/protocols.py` from the searches; change them there.
"""
MEANING = {"follows": "follows the document", "ours": "ours", "silent": "the document is silent"}


def page() -> str:
    """Return the page in Markdown."""
    parts = [HEAD]
    for script in sorted((ROOT / "searches").glob("*.py")):
        search = load_search(str(script))
        accounts = {name: preset.published for name, preset in search.presets.items() if preset.published}
        if accounts:
            parts.append(f"\n## `{search.name}`\n")
        for protocol in dict.fromkeys(accounts.values()):
            names = ", ".join(f"`{name}`" for name, own in accounts.items() if own == protocol)
            parts.append(f"\n**{names}**: {protocol.document}\n\n")
            parts.extend(
                f"- *{MEANING[heading]}*: {statement}\n"
                for heading, statement in protocol.rows()
                if heading in MEANING
            )
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
