// The few things every part of the page does with the document. Text only ever becomes text nodes.

export const by = (id) => document.getElementById(id);

export function make(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

export function button(className, text, onClick) {
  const element = make("button", className, text);
  element.type = "button";
  element.addEventListener("click", onClick);
  return element;
}

// Writes only what is new: an equal text would still cost a layout, and be read out again.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const short = (text, most = 80) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
