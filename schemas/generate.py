"""Writes the JSON Schemas of the contract to ``schemas/json``: ``python -m schemas.generate``."""

import json
from pathlib import Path

from schemas.models import CONTRACT, json_schema

FOLDER = Path(__file__).parent / "json"


def rendered() -> dict[str, str]:
    """File name to content, for every value of the contract."""
    return {f"{name}.schema.json": json.dumps(json_schema(name), indent=2) + "\n" for name in CONTRACT}


def main() -> None:
    """Write every schema; remove those of values that are gone."""
    FOLDER.mkdir(exist_ok=True)
    files = rendered()
    for stale in {path.name for path in FOLDER.glob("*.schema.json")} - files.keys():
        (FOLDER / stale).unlink()
    for name, content in files.items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
