"""Makes docs/images/serve_page.png: the page with a model of yours, and its first example.

python tests/serving/screenshot.py CONFIG CHECKPOINT FOLDER OUT.png
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from browser import open_browser, serve

#: Enough for the documentation; a picture of the page has few colours beside those of the image.
_COLOURS = 256


def main() -> None:
    config, checkpoint, examples, out = (Path(file).resolve() for file in sys.argv[1:])
    arguments = [config, checkpoint, "--examples", examples]
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(arguments, Path(folder)) as server,
        open_browser() as browser,
    ):
        page = browser.new_page(viewport=dict(width=1200, height=900))
        page.goto(server.url)
        page.locator("#examples").get_by_role("button").first.click()
        page.locator("#inside img[src]").wait_for(timeout=60_000)
        page.wait_for_load_state("networkidle")
        page.mouse.move(0, 0)
        page.screenshot(path=out, full_page=True, animations="disabled")
    with Image.open(out) as picture:
        small = picture.convert("RGB").quantize(_COLOURS)
    small.save(out, optimize=True)


if __name__ == "__main__":
    main()
