// What is wrong with the page that is open, as a list of sentences. Every box is opened first.
() => {
  document.querySelectorAll("details").forEach((it) => (it.open = true));
  const found = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const short = (it) => `${it.tagName.toLowerCase()} '${(it.textContent || "").trim().slice(0, 30)}'`;
  const require = (good, what) => good || found.push(what);

  // Structure
  require(document.documentElement.lang, "no language");
  require(document.title, "no title");
  require(all("main").length === 1, "not one main landmark");
  require(all("h1").length === 1, "not one h1");
  let level = 0;
  for (const heading of all("h1, h2, h3, h4, h5, h6")) {
    const own = Number(heading.tagName[1]);
    require(own <= level + 1, `${short(heading)} skips a level`);
    level = own;
  }
  for (const it of all("h1, h2, h3, p, table, figure, ul, dl")) require(it.closest("main"), `${short(it)} is outside main`);
  for (const it of all("nav")) require(it.getAttribute("aria-label"), "a nav has no name");
  for (const it of all("a[href^='#']")) require(document.getElementById(it.hash.slice(1)), `${short(it)} leads nowhere`);
  const ids = all("[id]").map((it) => it.id);
  require(new Set(ids).size === ids.length, "an id comes twice");

  // Alternatives, names, tables
  for (const it of all("img")) require(it.alt, "a picture has no text alternative");
  for (const it of all("figure")) require(it.querySelector("svg"), "a figure is empty");
  for (const it of all("svg")) {
    const named = it.getAttribute("role") === "img" && it.getAttribute("aria-label");
    require(it.ownerSVGElement || named, "a drawing has no text alternative");
  }
  for (const it of all("[tabindex]")) {
    const role = it.getAttribute("role") === "region" || it.tagName === "FIGURE";
    require(role && it.getAttribute("aria-label"), `${short(it)} can be reached and has no name`);
  }
  for (const it of all("table")) {
    require(it.querySelector("thead th"), `${short(it)} has no header`);
    for (const cell of it.querySelectorAll("th")) require(cell.scope, `${short(cell)} has no scope`);
  }

  // Room: the page does not scroll sideways, and what does can be reached with the keyboard
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  require(wide <= 0, `the page is ${wide} px too wide`);
  for (const it of all("body *")) {
    const style = getComputedStyle(it);
    const scrolls = ["auto", "scroll"].includes(style.overflowX) && it.scrollWidth > it.clientWidth;
    require(!scrolls || it.tabIndex === 0, `${short(it)} scrolls and cannot be reached`);
  }

  // Contrast (WCAG 2, 1.4.3): of every text against the nearest background
  const rgba = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return { color: [r, g, b], a };
  };
  const luminance = (color) => {
    const [r, g, b] = color.map((it) => it / 255).map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (it) => {
    for (let node = it; node; node = node.parentElement) {
      const { color, a } = rgba(getComputedStyle(node).backgroundColor);
      if (a > 0) return color;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const it = node.parentElement;
    if (!node.data.trim() || !it.getClientRects().length || ["STYLE", "TITLE", "DESC"].includes(it.tagName.toUpperCase())) continue;
    const style = getComputedStyle(it);
    const { color, a } = rgba(it.ownerSVGElement ? style.fill : style.color);
    const [light, dark] = [luminance(color), luminance(behind(it))].sort((x, y) => y - x);
    const ratio = (light + 0.05) / (dark + 0.05);
    require(a === 1 && Number(style.opacity) === 1 && ratio >= 4.5, `${short(it)} has a contrast of ${ratio.toFixed(1)}`);
  }
  return [...new Set(found)];
}
