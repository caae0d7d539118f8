import { useEffect, useRef, useState } from 'preact/hooks'
import { Button, Icon, html } from './html.js'
import { t } from './i18n.js'
import { AgentBar, AgentThread } from './agent.js'
import { Composer } from './composer.js'
import { Message, ToolTurn } from './message.js'
import { Help, Settings } from './panels.js'
import { Sidebar } from './sidebar.js'
import { add, hasFiles } from './files.js'
import { run, stopRun } from './runs.js'
import { asText, current, dialog, editing, go, isTemporary, model, models, notice, path, setSetting, sidebarOpen, spoken, stop, temporary } from './state.js'

const STEP = 40 // messages drawn at first, and each time the top is reached

// An answer with tool calls, the results and what follows them are one turn of the assistant.
function turns(list) {
  const found = []
  for (const m of list) {
    const last = found.at(-1)
    const goesOn = last && last.at(-1).role !== 'user' && m.role !== 'user'
    if (goesOn) last.push(m)
    else found.push([m])
  }
  return found
}

function Thread() {
  const box = useRef()
  const top = useRef()
  const [count, setCount] = useState(STEP)
  const [away, setAway] = useState(false)
  const follows = useRef(true)
  const id = current.value?.id
  const all = turns(path.value)
  const shown = all.slice(-count)
  useEffect(() => {
    setCount(STEP)
    follows.current = true
  }, [id])
  useEffect(() => {
    if (follows.current) box.current.scrollTop = box.current.scrollHeight
  })
  useEffect(() => {
    const grown = new ResizeObserver(() => follows.current && (box.current.scrollTop = box.current.scrollHeight))
    grown.observe(box.current.firstElementChild)
    const seen = new IntersectionObserver(([e]) => {
      if (!e.isIntersecting || follows.current) return
      const { scrollHeight, scrollTop } = box.current
      setCount((n) => n + STEP)
      requestAnimationFrame(() => (box.current.scrollTop = Math.max(box.current.scrollTop, scrollTop + box.current.scrollHeight - scrollHeight)))
    }, { root: box.current, rootMargin: '600px' })
    seen.observe(top.current)
    return () => (grown.disconnect(), seen.disconnect())
  }, [id, count])
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current
    follows.current = scrollHeight - scrollTop - clientHeight < 60
    setAway(!follows.current)
  }
  const toEnd = () => {
    follows.current = true
    box.current.scrollTop = box.current.scrollHeight
  }
  return html`
    <div class="thread" ref=${box} onScroll=${onScroll} tabindex="0" role="region" aria-label=${current.value?.title || t('newChat')}>
      <div class="column">
        <div ref=${top}>${count < all.length && html`<${Button} class="quiet earlier" text=${t('earlier')} onClick=${() => { follows.current = false; setCount(count + STEP) }} />`}</div>
        ${!all.length && !current.value && html`<div class="hello"><h1>${t('hello')}</h1><p>${model.value.id}</p>${isTemporary.value && html`<p>${t('temporaryHint')}</p>`}</div>`}
        ${shown.map((turn, i) => turn[0].role === 'user'
          ? html`<${Message} key=${turn[0].id} message=${turn[0]} last=${i === shown.length - 1} />`
          : html`<${ToolTurn} key=${turn[0].id} turn=${turn} last=${i === shown.length - 1} />`)}
      </div>
    </div>
    ${away && html`<${Button} class="jump" icon="down" label=${t('latest')} onClick=${toEnd} />`}`
}

function onKey(event) {
  const typing = /^(?:INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)
  const mod = event.ctrlKey || event.metaKey
  const name = event.key.toLowerCase()
  const act = (work) => (event.preventDefault(), work())
  if (dialog.value || event.isComposing) return
  if (mod && event.shiftKey && name === 'o') act(() => (go(''), focusBox()))
  else if (mod && name === 'k') act(() => { sidebarOpen.value = true; setTimeout(() => document.getElementById('search')?.focus()) })
  else if (mod && event.shiftKey && name === 's') act(() => (sidebarOpen.value = !sidebarOpen.value))
  else if (mod && name === ',') act(() => (dialog.value = 'settings'))
  else if (mod && event.shiftKey && name === 'y') act(() => navigator.clipboard.writeText(path.value.findLast((m) => m.role === 'assistant')?.content ?? ''))
  else if (mod && name === '/') act(() => (dialog.value = 'help'))
  else if (name === 'escape') editing.value ? (editing.value = 0) : run.value ? run.value.state === 'running' && stopRun() : stop()
  else if (!typing && name === '?') act(() => (dialog.value = 'help'))
  else if (!typing && name === '/' && !mod) act(focusBox)
}
export const focusBox = () => document.getElementById('ask')?.focus()

function Header() {
  const [copied, setCopied] = useState(false)
  const copy = async () => {
    await navigator.clipboard.writeText(asText())
    setCopied(true)
    setTimeout(() => setCopied(false), 1500)
  }
  const picked = (e) => setSetting('model', e.target.value)
  return html`<header>
    <${Button} class="quiet" icon="menu" label=${t('sidebar')} aria-expanded=${sidebarOpen.value} onClick=${() => (sidebarOpen.value = !sidebarOpen.value)} />
    <h2 class="title">${run.value ? html`<span class="tag">${t('agent')}</span>${run.value.title}` : html`${isTemporary.value && html`<span class="tag">${t('temporary')}</span>`}${current.value?.title || ''}`}</h2>
    ${models.value.length > 1
      ? html`<select class="model" aria-label=${t('pickModel')} value=${model.value.id} onChange=${picked}>${models.value.map((m) => html`<option value=${m.id} selected=${m.id === model.value.id}>${m.id}</option>`)}</select>`
      : html`<span class="model">${model.value.id}</span>`}
    ${!current.value && !run.value && html`<${Button} class="quiet" icon="clock" label=${t('temporaryNew')} aria-pressed=${temporary.value} onClick=${() => (temporary.value = !temporary.value)} />`}
    ${path.value.length > 0 && html`<${Button} class="quiet" icon=${copied ? 'check' : 'copy'} label=${copied ? t('copied') : t('copyAll')} onClick=${copy} />`}
    <${Button} class="quiet wide-only" icon="help" label=${t('help')} onClick=${() => (dialog.value = 'help')} />
    <${Button} class="quiet" icon="gear" label=${t('settings')} onClick=${() => (dialog.value = 'settings')} />
  </header>`
}

// Files may be dropped anywhere on the page. Entering a child comes before leaving its parent, so the two are counted.
function useDrop() {
  const [over, setOver] = useState(false)
  useEffect(() => {
    let depth = 0
    const set = (n) => ((depth = n), setOver(n > 0))
    const work = {
      dragenter: (e) => hasFiles(e.dataTransfer) && (e.preventDefault(), set(depth + 1)),
      dragleave: (e) => hasFiles(e.dataTransfer) && set(Math.max(0, depth - 1)),
      dragover: (e) => hasFiles(e.dataTransfer) && e.preventDefault(),
      drop: (e) => (set(0), e.dataTransfer?.files.length && (e.preventDefault(), add(e.dataTransfer.files), focusBox())),
    }
    for (const [name, act] of Object.entries(work)) addEventListener(name, act)
    return () => Object.entries(work).forEach(([name, act]) => removeEventListener(name, act))
  }, [])
  return over
}

export function App({ theme }) {
  const over = useDrop()
  useEffect(() => {
    addEventListener('keydown', onKey)
    return () => removeEventListener('keydown', onKey)
  }, [])
  return html`
    <a class="skip" href="#ask" onClick=${(e) => (e.preventDefault(), focusBox())}>${t('skip')}</a>
    <div class="layout" data-sidebar=${sidebarOpen.value ? 'open' : 'closed'}>
      <${Sidebar} />
      <main>
        <${Header} />
        ${run.value ? html`<${AgentThread} key=${run.value.id} /><${AgentBar} />` : html`<${Thread} /><${Composer} />`}
      </main>
    </div>
    ${over && html`<div class="drop" aria-hidden="true"><span>${t('dropHere')}</span></div>`}
    ${dialog.value === 'settings' && html`<${Settings} theme=${theme} />`}
    ${dialog.value === 'help' && html`<${Help} />`}
    <div class="notice" role="alert">${notice.value && html`<span>${notice.value}</span><${Button} class="quiet" icon="close" label=${t('close')} onClick=${() => (notice.value = '')} />`}</div>
    <div class="unseen" aria-live="polite">${spoken.value}</div>`
}
