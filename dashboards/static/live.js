// Parts of a page marked `data-live` are fetched again and put in place where they have changed.
"use strict";

const Live = (() => {
  async function refresh() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
    if (!answer.ok) return false;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (other && other.innerHTML !== part.innerHTML) replace(part, other);
    }
    return true;
  }

  function replace(part, other) {
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.replaceChildren(...document.adoptNode(other).childNodes);
    if (focused) document.getElementById(focused)?.focus();
  }

  function every(milliseconds) {
    setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, milliseconds);
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    } catch {
      getSelection().selectAllChildren(source);
    }
  });

  if (document.getElementById("studies")) every(3000);
  return { refresh };
})();
