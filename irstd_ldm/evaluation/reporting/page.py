"""The frame of the page: nothing in it is fetched from elsewhere, and nothing runs."""

from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f6f8fa; --ink: #1f2328; --soft: #57606a; --line: #d0d7de;
  --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --card: #161b22; --ink: #e6edf3; --soft: #9da7b1;
  --line: #363e48; --link: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
a { color: var(--link); }
.note, caption, figcaption { color: var(--soft); font-size: .875rem; }
.scroll { overflow-x: auto; margin: .75rem 0; overflow-wrap: normal; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .925rem; }
caption { text-align: left; padding-bottom: .4rem; }
caption span { display: block; position: sticky; left: 0; max-width: min(70rem, calc(100vw - 2rem)); }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  white-space: nowrap; }
thead th { background: var(--card); }
tbody th { font-weight: 500; }
.number { text-align: right; }
dl { display: grid; grid-template-columns: fit-content(14rem) 1fr; gap: .15rem 1rem; margin: .75rem 0;
  font-size: .925rem; }
dt { color: var(--soft); }
dd { margin: 0; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); }
figure { margin: 0; }
img { max-width: 100%; height: auto; display: block; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.plots img { border: 1px solid var(--line); border-radius: 6px; width: 100%; max-width: 40rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem 1rem;
  align-items: start; }
.gallery .frame { width: 100%; border-radius: 4px; }
.details { display: flex; flex-wrap: wrap; gap: 4px; margin-top: 4px; }
.detail { width: calc(33.3% - 3px); border-radius: 3px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: .5rem 0; }
.legend li { display: flex; align-items: center; gap: .4rem; }
.legend svg { width: 1.5rem; height: 1.5rem; }
@media (max-width: 40rem) { tbody th { white-space: normal; min-width: 7.5rem; } th, td { padding: .3rem .4rem; } }
@media print { .scroll { overflow: visible; } figure { break-inside: avoid; } }
"""


def page(title: str, body: str) -> str:
    """A whole document around markup."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
