"""A section of the page of benchmarks is written in its place, and nothing else of the page is touched."""

from pathlib import Path

from tests.benchmarks.figures import Figure, write_section

FIGURES = [Figure("speed", 12345.6, "records/s", 10_000), Figure("memory", 900, "MB", 800, most=True, note="of all")]


def test_a_section_is_written_in_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nBefore.\n")
    write_section("one", "One", "First.\n\nSecond.", FIGURES, page)
    write_section("two", "Two", "Other.", FIGURES[:1], page)
    first = page.read_text()
    assert first.startswith("# Page\n\nBefore.\n\n<!-- begin one -->\n## One\n\nFirst.\n\nSecond.\n\n| what |")
    assert "| speed | 1.235e+04 records/s | ≥ 10,000 |  |" in first
    assert "| memory | 900 MB | ≤ 800: **not met** | of all |" in first
    write_section("one", "One", "First.\n\nSecond.", FIGURES, page)
    assert page.read_text() == first
    write_section("one", "One", "Anew.", FIGURES, page)
    assert page.read_text() == first.replace("First.\n\nSecond.", "Anew.")
