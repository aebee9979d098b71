"""The notes of a version, from CHANGELOG.md, as Markdown; of what is not yet released: `Unreleased`.

python docs/site/release_notes.py 0.1.0        (which `make release-notes VERSION=0.1.0` does)
"""

import argparse
import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parents[2] / "CHANGELOG.md"
HEADING = re.compile(r"^## \[([^]]+)\].*\n", flags=re.MULTILINE)


def main() -> None:
    """Print them; of a version that is not there, say which are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="as its heading in CHANGELOG.md has it")
    version: str = parser.parse_args().version
    found = notes(CHANGELOG.read_text())
    if version not in found:
        sys.exit(f"CHANGELOG.md has no version {version!r}; write one of {', '.join(found)}.")
    print(found[version])


def notes(changelog: str) -> dict[str, str]:
    """What stands below the heading of each version, the newest first."""
    _, *parts = HEADING.split(changelog)
    return {version: text.strip() for version, text in zip(parts[::2], parts[1::2], strict=True)}


if __name__ == "__main__":
    main()
