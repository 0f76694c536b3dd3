"""Horizontal bars as SVG. No background, and tones that are legible on white and on near-black."""

import math
from html import escape

WIDTH = 760
LEFT = 92
RIGHT = 110
BAR = 18
ROW = 23
GROUP = 28
HEAD = 62
TEXT = "#7d8590"
COLOURS = {"chat-svc": "#e0713a", "node": "#4a9a57", "bun": "#8a6fc9", "socketioxide-relay": "#3f87c5", "bare-relay": "#8b949e"}
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\""


def bars(title, subtitle, groups, unit, logarithmic=False, ratio=False):
    """`groups`: (name, [(label, colour's key, value)]). Nothing when there are none. `ratio`: that to the group's first is told."""
    values = [value for _, rows in groups for _, _, value in rows]
    return drawn(title, subtitle, groups, unit, values, logarithmic, lambda value: (None, value), ratio)


def ranges(title, subtitle, groups, unit):
    """The same with values that are (low, high), on a logarithmic axis: a bar from one to the other."""
    values = [end for _, rows in groups for _, _, value in rows for end in value]
    return drawn(title, subtitle, groups, unit, values, True, lambda value: value)


def drawn(title, subtitle, groups, unit, values, logarithmic, ends, ratio=False):
    if not values:
        return None
    axis = Axis(values, logarithmic)
    height = HEAD + sum(GROUP + ROW * len(rows) for _, rows in groups) + 34
    bottom = height - 26
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" {FONT} fill="{TEXT}" role="img">',
        f"<title>{escape(title)}: {escape(subtitle)}</title>",
        text(0, 18, title, 'font-size="17" font-weight="600"'),
        text(0, 38, subtitle, 'font-size="12"'),
    ]
    for tick in axis.ticks():
        x = axis.x(tick)
        out.append(f'<path d="M{x:.1f} {HEAD - 8}V{bottom}" stroke="{TEXT}" stroke-opacity=".3"/>')
        out.append(text(x, bottom + 16, f"{tick:,g} {unit}".replace(" /", "/"), 'font-size="11" text-anchor="middle"'))
    y = HEAD
    for name, rows in groups:
        out.append(text(LEFT + 6, y + 12, name, 'font-size="12" font-weight="600"'))
        y += GROUP - 8
        for label, colour, value in rows:
            low, high = ends(value)
            from_x, to_x = (LEFT if low is None else axis.x(low)), axis.x(high)
            out.append(text(LEFT - 8, y + 13, label, 'font-size="12" text-anchor="end"'))
            out.append(
                f'<rect x="{from_x:.1f}" y="{y}" width="{max(to_x - from_x, 2):.1f}" height="{BAR}" rx="3" fill="{COLOURS[colour]}"/>'
            )
            said = " – ".join(short(end) for end in (low, high) if end is not None)
            times = f" ({value / rows[0][2]:.1f} ×)" if ratio and value != rows[0][2] else ""
            said = f"{said} {unit}{times}".replace(" /", "/")
            out.append(text(max(to_x, from_x + 2) + 6, y + 13, said, 'font-size="12" font-weight="600"'))
            y += ROW
        y += 8
    return "\n".join([*out, "</svg>", ""])


class Axis:
    def __init__(self, values, logarithmic):
        self.logarithmic = logarithmic
        self.low = 10 ** math.floor(math.log10(min(values))) if logarithmic else 0
        self.high = 10 ** math.ceil(math.log10(max(values))) if logarithmic else max(values)
        if logarithmic and self.low == self.high:
            self.high *= 10

    def x(self, value):
        if self.logarithmic:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = value / self.high
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def ticks(self):
        if self.logarithmic:
            low, high = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(low, high + 1)]
        step = 10 ** math.floor(math.log10(self.high))
        step = next(s for s in (step / 5, step / 2, step, step * 2) if self.high / s <= 6)
        return [n * step for n in range(int(self.high / step) + 1)]


def text(x, y, words, how):
    return f'<text x="{x:.1f}" y="{y}" {how}>{escape(words)}</text>'


def short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
