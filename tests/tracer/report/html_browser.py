"""A page that is watched: what it says on the console, what it asks the network for, and how readable it is."""

import re
from pathlib import Path
from typing import Any


class Watched:
    """One page of a file."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._asked)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())

    def _asked(self, dialog: Any) -> None:
        self.errors.append("a dialog")
        dialog.dismiss()

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    @property
    def foreign(self) -> list[str]:
        """Requests for anything but the file; what a page makes for itself (blob:, data:) goes nowhere."""
        return [url for url in self.requests[1:] if not url.startswith(("blob:", "data:"))]

    def timeline(self, cell: str = "cell-1") -> Any:
        """A timeline, once it is there."""
        self.page.locator(f"#{cell}").evaluate("section => section.scrollIntoView()")
        self.page.wait_for_selector(f"[data-timeline={cell}].ready", timeout=30_000)
        return self.page.locator(f"[data-timeline={cell}]")

    def press(self, cell: str, *keys: str) -> str:
        """Press keys in a timeline; what it says then."""
        timeline = self.timeline(cell)
        timeline.locator(".plot").focus()
        for key in keys:
            self.page.keyboard.press(key)
        self.page.wait_for_timeout(250)
        text: str = timeline.locator(".status").inner_text()
        return text

    def poor_contrasts(self, least: float = 4.5) -> list[str]:
        """Visible texts whose colour is too near to what is behind them (WCAG 2, 1.4.3)."""
        found = []
        for text, colour, grounds in self.page.evaluate(_TEXTS):
            behind = (255.0, 255.0, 255.0)
            for ground in reversed(grounds):
                behind = _over(_rgba(ground), behind)
            if _contrast(_over(_rgba(colour), behind), behind) < least:
                found.append(f"{text}: {colour} on {grounds}")
        return found

    def faint(self, names: tuple[str, ...], least: float) -> list[str]:
        """Colours of the figure that do not stand out from its ground (WCAG 2, 1.4.11)."""
        wanted = ["ground", *names]
        ground, *colours = self.page.evaluate(_COLOURS, wanted)
        behind = _over(_rgba(ground), (255.0, 255.0, 255.0))
        found = zip(names, colours, strict=True)
        return [name for name, one in found if _contrast(_over(_rgba(one), behind), behind) < least]


_COLOURS = """(names) => names.map((name) => {
  const box = document.body.appendChild(document.createElement("i"));
  box.style.color = `var(--${name})`;
  const colour = getComputedStyle(box).color;
  box.remove();
  return colour;
})"""

_TEXTS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, noscript, button:disabled")) continue;
    const grounds = [];
    for (let one = element; one; one = one.parentElement) grounds.push(getComputedStyle(one).backgroundColor);
    found.push([node.textContent.trim().slice(0, 60), getComputedStyle(element).color, grounds]);
  }
  return found;
}"""

Colour = tuple[float, float, float]


def _rgba(text: str) -> tuple[float, ...]:
    numbers = [float(number) for number in re.findall(r"[\d.]+", text)]
    return (*numbers[:3], numbers[3] if len(numbers) > 3 else 1.0)


def _over(front: tuple[float, ...], behind: Colour) -> Colour:
    red, green, blue = (front[3] * one + (1 - front[3]) * other for one, other in zip(front, behind, strict=False))
    return red, green, blue


def _contrast(one: Colour, other: Colour) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Colour) -> float:
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
