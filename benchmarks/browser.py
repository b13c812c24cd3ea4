"""The page in a chromium: what it weighs, when it is seen and stays still, and a photo's way to its first result.

Figures are the browser's own (Navigation, Resource and Paint Timing, Layout Instability, Long Tasks), as Lighthouse
takes them, at its desktop size and without slowing down network or CPU. The photos must be such as the service has not
been asked for yet, since equal searches are answered at once.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import photos
from common import DATA, header, table, write_json
from service import service

_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
_WATCH = """
const seen = (window.__seen = {shift: 0, blocked: 0, painted: 0, chosen: 0, first: 0, done: 0});
const watch = (type, heard) =>
  new PerformanceObserver((list) => list.getEntries().forEach(heard)).observe({type, buffered: true});
watch("layout-shift", (entry) => { if (!entry.hadRecentInput) seen.shift += entry.value; });
watch("longtask", (entry) => { seen.blocked += Math.max(0, entry.duration - 50); });
watch("largest-contentful-paint", (entry) => { seen.painted = entry.startTime; });
addEventListener("change", (event) => {
  if (event.target.type === "file") Object.assign(seen, {chosen: performance.now(), first: 0, done: 0});
}, true);
const look = () => {
  if (seen.chosen && !seen.first && document.querySelector(".results .card")) seen.first = performance.now();
  if (seen.first && !seen.done && document.querySelector(".results[aria-busy=false] .export")) {
    seen.done = performance.now();
  }
  requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
_LOADED = """() => {
  const resources = performance.getEntriesByType("resource").filter((entry) => !entry.name.includes("/v1/"));
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  const page = performance.getEntriesByType("navigation")[0];
  return {
    files: 1 + resources.length,
    bytes: [page, ...resources].reduce((sum, entry) => sum + entry.transferSize, 0),
    interactive: page.domInteractive, first: paint ? paint.startTime : null, largest: window.__seen.painted,
    blocked: window.__seen.blocked, shift: window.__seen.shift,
  };
}"""


@dataclass(frozen=True)
class Result:
    """Of one collection. bytes: sent for the page without pictures and API. Times in ms, medians of several loads.

    shift: cumulative layout shift of loading and of a search, the most there was. first, whole: seconds from choosing
    a photo to the first result on the screen and to the last, p50 and p95.
    """

    files: int
    bytes: int
    interactive: float
    first_paint: float
    largest_paint: float
    blocked: float
    shift: float
    first: tuple[float, float]
    whole: tuple[float, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collection", type=Path, help="a collection, of any photos")
    parser.add_argument("--queries", type=Path, default=DATA / "museum_mcv/queries/clean_w4")
    parser.add_argument("--searches", type=int, default=10)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="of the service")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    chosen = photos.originals(options.queries)[: options.searches]
    with service(options.collection, options.workers) as (url, _):
        result = measured(url, chosen, options.loads)
    protocol = f"{options.loads} loads of the page, {len(chosen)} photos of {options.queries.name}, one after another"
    print(header(protocol))
    print(shown(result))
    write_json(options.out, protocol, asdict(result))


def measured(url: str, chosen: Sequence[Path], loads: int) -> Result:
    """Of the page at `url`, in contexts with nothing cached."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("RESIGHT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    loaded: list[dict[str, Any]] = []
    times: list[tuple[float, float]] = []
    shifts: list[float] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        for number in range(max(loads, len(chosen))):
            page = browser.new_context(viewport={"width": 1350, "height": 940}).new_page()
            page.add_init_script(_WATCH)
            page.goto(url)
            page.locator(".gallery img").nth(0).wait_for()
            page.wait_for_load_state("networkidle")
            if number < loads:
                loaded.append(page.evaluate(_LOADED))
            if number < len(chosen):
                page.set_input_files(".drop input", chosen[number])
                page.locator(".results[aria-busy=false] .export").wait_for(timeout=600_000)
                page.wait_for_timeout(500)
                seen = page.evaluate("() => window.__seen")
                if seen["first"]:  # else nothing was found, and nothing is shown
                    times.append(((seen["first"] - seen["chosen"]) / 1000, (seen["done"] - seen["chosen"]) / 1000))
                shifts.append(seen["shift"])
            page.context.close()
        browser.close()

    def median(key: str) -> float:
        return float(np.median([one[key] for one in loaded]))

    first, whole = ((float(np.percentile(t, 50)), float(np.percentile(t, 95))) for t in zip(*times, strict=True))
    return Result(
        files=int(median("files")),
        bytes=int(median("bytes")),
        interactive=median("interactive"),
        first_paint=median("first"),
        largest_paint=median("largest"),
        blocked=median("blocked"),
        shift=max(shifts),
        first=first,
        whole=whole,
    )


def shown(result: Result) -> str:
    """As Markdown."""
    rows = [
        ("page: files, kB sent", f"{result.files}, {result.bytes / 1000:.0f}"),
        ("interactive, ms", f"{result.interactive:.0f}"),
        ("first contentful paint, ms", f"{result.first_paint:.0f}"),
        ("largest contentful paint, ms", f"{result.largest_paint:.0f}"),
        ("total blocking time, ms", f"{result.blocked:.0f}"),
        ("cumulative layout shift, with a search", f"{result.shift:.3f}"),
        ("photo chosen to first result seen, s: p50, p95", "{:.2f}, {:.2f}".format(*result.first)),
        ("photo chosen to whole result seen, s: p50, p95", "{:.2f}, {:.2f}".format(*result.whole)),
    ]
    return table(("what", "measured"), rows)


if __name__ == "__main__":
    main()
