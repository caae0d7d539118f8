// Runs before the first paint, so that a dark page never flashes white.
const stored = localStorage.getItem('qwq.theme')
if (stored === '"dark"' || stored === '"light"') document.documentElement.dataset.theme = JSON.parse(stored)
