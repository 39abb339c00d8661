"""The report's page in Chromium and its tables in LaTeX, where these are installed."""

import re
import shutil
import subprocess

import pytest
from written_runs import curves, result, write_metrics, write_run

from fglight.paper import published
from fglight.report.command import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LATEX = shutil.which("pdflatex")

# Runs in the page: what a reader sees after each click on the header of a table's last column, and the page's width.
CHECK = """
<script>
const table = document.querySelector("#table3 table");
const column = [...table.tHead.rows].at(-1).cells.length - 3;
const header = [...table.tHead.rows].at(-1).cells[column];
const seen = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(";");
const lines = [seen()];
for (let click = 0; click < 3; click++) {
  header.querySelector("button").click();
  lines.push(`${header.getAttribute("aria-sort")}|${seen()}`);
}
[...table.tHead.rows].at(-1).cells[0].querySelector("button").click();
lines.push(seen());
lines.push(`${document.documentElement.scrollWidth <= window.innerWidth} ${document.images[0].naturalWidth > 0}`);
const report = document.createElement("pre");
report.id = "checked";
report.textContent = lines.join("\\n");
document.body.append(report);
</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of the CIFAR-10 weight cells of Table 3, but the last, and of scaled-down ones."""
    root = tmp_path_factory.mktemp("runs")
    for number, row in enumerate(row for row in published() if row.table == 3 and row.cell.perturb != "activity"):
        words = result(row.cell, row.mean / 100, settings={"note": "50 % & more_{ü<|~^\\"} if number % 5 == 4 else {})
        if row.cell.aux != "linear":
            write_metrics(write_run(root / str(number), words), curves(8, 3))
    write_run(root / "failed", {"error": "<script>console.error('injected')</script>"}, "failure.json")
    assert main([str(root), "--out", str(root / "report"), "--figure", "3", "--table", *map(str, range(2, 13))]) == 0
    return root / "report"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Runs headless Chromium on a page; returns the document after its scripts, and what the console said."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")

    def run(page, width):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        options += ["--disable-component-update", "--disable-sync", "--disable-quic", "--enable-logging=stderr"]
        profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
        command = [CHROMIUM, *options, profile, f"--window-size={width},1000", "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return run


@pytest.mark.parametrize("width", [1400, 500])
def test_the_page_opens_sorts_and_has_no_console_errors(report, tmp_path, chromium, width):
    page = tmp_path / "page.html"
    page.write_text((report / "index.html").read_text().replace("</body>", CHECK + "</body>"))
    document, console = chromium(page, width)
    assert console == []
    lines = re.search(r'<pre id="checked">(.*?)</pre>', document, re.DOTALL).group(1).splitlines()
    guesses = [f"{guess}, {aux}" for guess in ("Local", "NTK") for aux in ("CNN", "MLP", "Linear")]
    order = [*guesses, "Gaussian", "Rademacher"]
    # Table 3's CIFAR-10 weights: 92.0, scaled down, -, 66.8, 63.1, -, -, -; those without a number come last.
    numbered = ["Local, CNN", "NTK, CNN", "NTK, MLP"]
    missing = ["Gaussian", "Local, Linear", "Local, MLP", "NTK, Linear", "Rademacher"]
    assert lines[0] == ";".join(order)
    first, second, third = (line.split("|") for line in lines[1:4])
    assert (first[0], first[1].split(";")[:3]) == ("descending", numbered)
    assert (second[0], second[1].split(";")[:3]) == ("ascending", numbered[::-1])
    assert sorted(first[1].split(";")[3:]) == sorted(second[1].split(";")[3:]) == missing
    assert third == ["null", ";".join(order)]
    assert lines[4] == ";".join(sorted(order))
    assert lines[5] == "true true"  # nothing sticks out of the window, the figure is there


def test_a_script_error_would_be_seen(tmp_path, chromium):
    page = tmp_path / "broken.html"
    page.write_text("<script>undefined_function()</script>")
    assert "undefined_function is not defined" in "".join(chromium(page, 800)[1])


@pytest.mark.skipif(LATEX is None, reason="pdflatex is not installed")
def test_the_tables_compile(report, tmp_path):
    command = [LATEX, "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={tmp_path}"]
    done = subprocess.run([*command, str(report / "tables.tex")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000
    assert "Overfull" not in done.stdout
