// The page follows an answer while its reader is at the end, and stays where it is when the reader has scrolled up.

import { byId } from "./dom.js";

const NEAR_PX = 48;

let isFollowing = true;

/** `isGrowing()` says whether an answer is coming. */
export function startFollowing(isGrowing) {
  const scroller = byId("scroller");
  const look = () => {
    const below = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    isFollowing = below < NEAR_PX;
    byId("latest").hidden = isFollowing;
  };
  scroller.addEventListener("scroll", look, { passive: true });
  byId("latest").onclick = toEnd;
  const grown = new ResizeObserver(() => (isGrowing() ? stayAtEnd() : look()));
  grown.observe(byId("thread"));
  grown.observe(scroller);
}

/** Shows the end, and follows it from now on. */
export function toEnd() {
  const scroller = byId("scroller");
  isFollowing = true;
  scroller.scrollTop = scroller.scrollHeight;
  byId("latest").hidden = true;
}

/** Shows the end if it was shown before something was added. */
export function stayAtEnd() {
  if (isFollowing) toEnd();
}
