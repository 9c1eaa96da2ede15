// What the theme leaves out for those who use a keyboard or a screen reader.
new MutationObserver(() => {
  // It makes a landmark of each code block's buttons, and gives none a name.
  document.querySelectorAll("nav.md-code__nav").forEach((buttons, n) => {
    const name = `Code block ${n + 1}`;
    if (buttons.ariaLabel !== name) buttons.ariaLabel = name;
  });
  // A wide table scrolls, on a phone, without taking the focus.
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
  }
}).observe(document.body, { childList: true, subtree: true });
