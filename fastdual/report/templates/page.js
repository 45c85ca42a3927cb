"use strict";
const videos = JSON.parse(document.getElementById("videos").textContent);
const tip = document.getElementById("tip");
const add = (tag, text, className) => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  tip.append(element);
  return element;
};

function show(dot, event) {
  const row = dot.dataset.row;
  const [path, name, split, hasStrip] = videos[row];
  tip.replaceChildren();
  if (hasStrip) add("div", "", "strip playing t" + row);
  add("b", name || "no class");
  add("div", split);
  add("small", path);
  tip.style.display = "block";
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(event.clientX + 16, innerWidth - box.width - 8)) + "px";
  tip.style.top = Math.max(8, Math.min(event.clientY + 16, innerHeight - box.height - 8)) + "px";
  for (const twin of document.querySelectorAll(`.dot[data-row="${row}"]`)) twin.classList.add("twin");
}

function hide() {
  tip.style.display = "none";
  for (const twin of document.querySelectorAll(".dot.twin")) twin.classList.remove("twin");
}

for (const map of document.querySelectorAll(".map")) {
  map.addEventListener("pointerover", (event) => {
    hide();
    if (event.target.classList.contains("dot")) show(event.target, event);
  });
  map.addEventListener("pointerleave", hide);
  // A finger leaves as soon as it lifts; the click that follows is what was meant.
  map.addEventListener("click", (event) => {
    hide();
    if (event.target.classList.contains("dot")) show(event.target, event);
  });
}
document.body.dataset.ready = "yes";
