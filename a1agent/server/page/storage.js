// What this tab keeps until it is closed. A browser may forbid or bound that; then it is not kept, and the page goes on.

function tried(action, otherwise) {
  try {
    return action();
  } catch {
    return otherwise;
  }
}

export const read = (name) => tried(() => sessionStorage.getItem(name), null);
export const write = (name, value) => tried(() => (sessionStorage.setItem(name, value), true), false);
export const remove = (name) => tried(() => sessionStorage.removeItem(name));
export const names = () => tried(() => Object.keys(sessionStorage), []);
