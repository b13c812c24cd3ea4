"""`make demo`: draw photographs, index them, and search them with the command line, as one would one's own.

    python demo/demo.py FOLDER

Exits with 1 if a search finds a photograph that does not show the thing, or none where there are some.
"""

import subprocess
import sys
from pathlib import Path

from pictures import SOURCES, Place, View, corners, photograph, picture

OBJECTS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "stereo_motorcycle")
ALONE = ("cell", "coins", "grass", "gravel", "immunohistochemistry", "retina", "rocket")
DAMAGED = "damaged.jpg"
ROOMS = (
    ("astronaut", "coffee"),
    ("chelsea", "hubble_deep_field"),
    ("coffee", "stereo_motorcycle"),
    ("retina", "chelsea"),
)
QUERY_ROOM: dict[str, Place] = {"coffee": (250, 330, 360, 18), "chelsea": (700, 360, 380, -22)}


def views() -> dict[str, View]:
    """The photographs of the collection, by file name."""
    taken: dict[str, View] = {}
    for name in OBJECTS:
        taken |= {
            f"{name}-1-front.jpg": View({name: (480, 350, 560, 0)}),
            f"{name}-2-left.jpg": View({name: (420, 380, 520, 38)}, quality=70),
            f"{name}-3-right.jpg": View({name: (520, 340, 480, -42)}),
            f"{name}-4-visitor.jpg": View({name: (440, 330, 540, 12)}, visitor=610),
            f"{name}-5-detail.jpg": View({name: (330, 260, 1250, -10)}),
            f"{name}-6-dark.jpg": View({name: (500, 360, 500, -15)}, light=0.4, blur=1.0, noise=7, quality=60),
            f"{name}-7-far.jpg": View({name: (610, 300, 300, 25)}, blur=0.8),
        }
    taken["stereo_motorcycle-8-second-camera.jpg"] = View({"stereo_motorcycle right": (480, 360, 600, 0)})
    for number, (left, right) in enumerate(ROOMS, 1):
        taken[f"room-{number}.jpg"] = View({left: (250, 340, 380, 20), right: (700, 380, 400, -18)})
    for name in ALONE:
        taken[f"{name}.jpg"] = View({name: (480, 360, 580, 8)})
    return taken


def draw(folder: Path, photos: dict[str, View]) -> None:
    """Write the photographs, one damaged file among them, and three queries; what is there already stays."""
    drawn_by = max(file.stat().st_mtime for file in Path(__file__).parent.glob("*.py"))
    queries = {
        "snapshot.jpg": View({"astronaut": (560, 330, 500, -28)}, light=0.8, visitor=330),
        "room.jpg": View(QUERY_ROOM),
        "stranger.jpg": View({"camera": (480, 350, 520, 15)}),
    }
    for name, taken in (("photos", photos | {DAMAGED: View({})}), ("queries", queries)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, view in taken.items():
            path, part = folder / name / file, folder / "part"
            if not path.exists() or path.stat().st_mtime < drawn_by:
                part.write_bytes(photograph(file, view)[: 2000 if file == DAMAGED else None])
                part.replace(path)


def resight(*arguments: str) -> str:
    """Run a command line, showing it and what it prints; its standard output."""
    print("\n$ resight", *arguments, flush=True)
    program = Path(sys.executable).with_name("resight")
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode not in (0, 1):  # 1 is "nothing found"
        sys.exit(done.returncode)
    return done.stdout


def main() -> None:
    folder = Path(sys.argv[1])
    photos = views()
    print(f"Drawing {len(photos)} photographs in {folder}/photos: pictures that come with scikit-image, on walls.")
    draw(folder, photos)
    for name, source in SOURCES.items():
        print(f"  {name:<21}{source}")

    collection = str(folder / "collection")
    resight("index", str(folder / "photos"), "--into", collection)
    resight("failures", collection)

    right = True

    def search(wanted: str, *arguments: str) -> None:
        nonlocal right
        printed = resight("search", collection, *arguments)
        found = {name for name in photos if f"/{name}" in printed}
        true = {name for name, view in photos.items() if wanted in view.shows}
        right &= found <= true and bool(found) == bool(true)
        print(f"It is in {len(true)} of the photographs: {len(found & true)} found, {len(found - true)} wrong.")

    search("astronaut", f"{folder}/queries/snapshot.jpg", "--html", f"{folder}/results.html")
    outline = corners(QUERY_ROOM["coffee"], picture("coffee").shape)
    box = ",".join(f"{v:.0f}" for v in (*outline.min(axis=0), *outline.max(axis=0)))
    search("coffee", f"{folder}/queries/room.jpg", "--box", box, "--html", f"{folder}/results-box.html")
    search("camera", f"{folder}/queries/stranger.jpg")

    program = Path(sys.executable).with_name("resight").relative_to(Path.cwd())
    print(
        f"\nSee why each is a match: open {folder}/results.html and {folder}/results-box.html in a browser."
        f"\n\nYour own photos:\n  {program} index FOLDER_OF_PHOTOS --into my-collection"
        f"\n  {program} search my-collection PICTURE --html results.html"
    )
    if not right:
        sys.exit(1)


if __name__ == "__main__":
    main()
