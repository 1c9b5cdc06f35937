// The elements of page.html, by id.
export const $ = (id) => document.getElementById(id);
