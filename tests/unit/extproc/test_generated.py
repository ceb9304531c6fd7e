"""The committed message classes are what the compiler makes of proto/."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_generating_again_changes_nothing(tmp_path):
    spec = importlib.util.spec_from_file_location("generate_proto", ROOT / "hack" / "generate_proto.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.generate(tmp_path)
    assert len(made) == 4
    for path in made:
        assert (ROOT / path.relative_to(tmp_path)).read_text() == path.read_text(), f"{path.name}: run `make proto`"
