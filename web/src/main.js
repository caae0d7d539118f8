import { render } from 'preact'
import { effect } from '@preact/signals'
import { html } from './html.js'
import { App } from './app.js'
import { kept } from './kept.js'
import { loadTools } from './markdown.js'
import { loadRuns, openRun, run } from './runs.js'
import { current, loadList, loadModel, open } from './state.js'

export const theme = kept('theme', 'auto')
effect(() => {
  if (theme.value === 'auto') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = theme.value
})
effect(() => (document.title = (run.value ?? current.value)?.title ? `${(run.value ?? current.value).title} · qwq` : 'qwq'))

render(html`<${App} theme=${theme} />`, document.getElementById('app'))
const route = () => {
  const place = location.hash.slice(2)
  if (place.startsWith('agent/')) return open(''), openRun(place.slice(6))
  run.value = null
  const [id, message] = place.split('@')
  if (id !== (current.value?.id ?? '') || message) open(id, Number(message) || 0)
}
addEventListener('hashchange', route)
route()
loadModel()
loadList()
loadRuns()
addEventListener('focus', () => (loadList(), loadRuns()))
requestAnimationFrame(() => setTimeout(loadTools))
