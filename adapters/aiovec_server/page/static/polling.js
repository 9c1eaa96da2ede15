// What is asked again and again: only while someone can see it, and one answer at a time.

import { UNREACHABLE } from "./api.js";

export function every(milliseconds, signal, act) {
  let timer = 0;
  let busy = false;
  const turn = async () => {
    clearTimeout(timer);
    if (signal.aborted || document.hidden || busy) return;
    busy = true;
    try {
      await act();
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === UNREACHABLE) return void dispatchEvent(new Event("aiovec:offline"));
      if (error.status === 401) return void dispatchEvent(new HashChangeEvent("hashchange"));
    } finally {
      busy = false;
    }
    timer = setTimeout(turn, milliseconds);
  };
  document.addEventListener("visibilitychange", turn, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  timer = setTimeout(turn, milliseconds);
}
