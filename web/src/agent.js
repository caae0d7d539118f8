// A run of the agent: its steps as they happen, what waits for a person, its files, the answer with numbers that jump to their call.
import DOMPurify from 'dompurify'
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import { download, fetchData } from './api.js'
import { Button, Icon, html } from './html.js'
import { number, seconds, t } from './i18n.js'
import { PURE } from './markdown.js'
import { Attached, Copy, Markdown } from './message.js'
import { decide, goOnRun, run, stopRun } from './runs.js'
import { key, tried } from './state.js'

const LONG = 1500 // characters of a result that are shown at once
const place = (name) => `/api/agent/${run.value.id}/files/${name.split('/').map(encodeURIComponent).join('/')}`

// The events of a run as steps: a turn with its calls, each with what was decided and what came back.
export function steps(events) {
  const found = []
  const calls = new Map()
  for (const e of events) {
    if (e.event === 'model_turn') found.push({ kind: 'turn', turn: e, calls: [] })
    else if (e.event === 'call') {
      const made = { call: e, approval: null, started: false, result: null }
      calls.set(e.id, made)
      found.findLast((s) => s.kind === 'turn')?.calls.push(made)
    } else if (e.event === 'approval') calls.get(e.id).approval = e
    else if (e.event === 'tool_started') calls.get(e.id).started = true
    else if (e.event === 'result') calls.get(e.id).result = e
    else if (['budget', 'check', 'compaction'].includes(e.event)) found.push({ kind: 'note', text: e.text ?? '' })
    else if (e.event === 'summary') found.push({ kind: 'summary', summary: e })
    else if (e.event === 'resume') found.push({ kind: 'note', text: t('wentOn') })
  }
  return found
}

function Fold({ icon, label, more, open: first = false, children }) {
  const [chosen, choose] = useState(null)
  const open = chosen ?? first
  return html`<div class="thinking"><button type="button" class="fold" aria-expanded=${open} onClick=${() => choose(!open)}>
      <${Icon} name=${icon} /><span class="label">${label}</span>${more && html`<span>· ${more}</span>`}<${Icon} name="right" /></button>${open && children}</div>`
}

// What the model wrote of turns that left its context; of one that could not be used, why.
function Summary({ summary }) {
  if (summary.fault) return html`<p class="hint note">${t('noSummary')} ${summary.fault}</p>`
  return html`<${Fold} icon="bulb" label=${t('summedUp')} more=${number(summary.turns)}>
    <div class="thoughts" tabindex="0" role="group" aria-label=${t('summedUp')}><ul>${summary.facts.map((f, i) => html`<li key=${i}>${f.call}: ${f.fact}</li>`)}${summary.open.map((s, i) => html`<li key=${`o${i}`}>${t('openStep')} ${s}</li>`)}</ul></div><//>`
}

const Thought = ({ text, time, now }) => html`<${Fold} icon="bulb" label=${now ? t('thinking') : time ? t('thoughtFor', seconds(time)) : t('thought')} open=${now}>
  <div class="thoughts" tabindex="0" role="group" aria-label=${t('thinking')}><${Markdown} text=${text} /></div><//>`

// A table that a cell showed: the jail's HTML, of which only a table's own tags are kept. Its styles go first: the page's policy
// would report them even where they are only parsed.
const withoutStyle = (source) => source.replace(/<style[\s\S]*?<\/style>/gi, '').replace(/\sstyle\s*=\s*(?:"[^"]*"|'[^']*'|[^\s>]+)/gi, '')
function Table({ source }) {
  const box = useRef()
  useLayoutEffect(() => box.current.replaceChildren(DOMPurify.sanitize(withoutStyle(source), { ...PURE, ALLOWED_TAGS: ['table', 'thead', 'tbody', 'tr', 'th', 'td'], ALLOWED_ATTR: [] })), [source])
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('table')} ref=${box}></div>`
}

function Picture({ artefact }) {
  const [data, set] = useState('')
  useEffect(() => void fetchData(place(`artefacts/${artefact.name}`)).then(set, () => set('')), [artefact.sha256])
  const title = artefact.title || artefact.name
  return html`<figure class="picture">${data ? html`<img src=${data} alt=${title} />` : html`<span class="waiting" aria-hidden="true"></span>`}</figure>`
}

function Output({ text, whole }) {
  const [all, showAll] = useState(false)
  const cut = !all && text.length > LONG
  return html`<pre tabindex="0" aria-label=${t('result')}>${cut ? `${text.slice(0, LONG)} …` : text}</pre>
    <div class="row">${cut && html`<${Button} class="quiet" text=${t('showAll')} onClick=${() => showAll(true)} />`}
      ${whole && html`<${Button} class="quiet" icon="file" text=${t('wholeOutput')} onClick=${() => tried(() => download(place(whole)))} />`}</div>`
}

const CODE = { python: ['code', 'python'], shell: ['command', 'bash'], sql: ['query', 'sql'], bash: ['command', 'bash'] }

function Arguments({ call }) {
  if (call.malformed !== undefined) return html`<pre tabindex="0">${call.malformed}</pre>`
  const [name, language] = CODE[call.tool] ?? []
  const code = name && call.arguments[name]
  if (typeof code === 'string') {
    const fence = '`'.repeat(Math.max(3, ...(code.match(/`+/g) ?? []).map((s) => s.length + 1)))
    return html`<${Markdown} text=${`${fence}${language}\n${code}\n${fence}`} />`
  }
  return html`<pre tabindex="0">${JSON.stringify(call.arguments, null, 2)}</pre>`
}

function Ask({ step }) {
  const [reason, setReason] = useState('')
  const [sent, send] = useState(false)
  const say = async (good) => {
    send(true)
    if (!(await decide(step.call.id, good, reason.trim()))) send(false)
  }
  return html`<form class="approval" role="group" aria-label=${t('asks')} onSubmit=${(e) => (e.preventDefault(), say(true))}>
    <p><strong>${t('asks')}</strong> ${step.approval.reason}</p>
    <label>${t('why')}<input maxlength="2000" value=${reason} onInput=${(e) => setReason(e.target.value)} /></label>
    <div class="row"><button class="primary" disabled=${sent}>${t('approve')}</button><${Button} class="danger" text=${t('deny')} disabled=${sent} onClick=${() => say(false)} /></div></form>`
}

function Call({ step, waits }) {
  const { call, approval, result } = step
  const kind = result?.kind ?? (waits ? 'waits' : step.started ? 'running' : 'none')
  const tables = (result?.detail?.display ?? []).map((d) => d['text/html']).filter(Boolean).slice(0, 8)
  const pictures = (result?.artefacts ?? []).filter((a) => a.media_type === 'image/png')
  return html`<section class="step" id=${call.id} tabindex="-1" aria-label=${`${call.tool || t('malformed')} ${call.id}`}>
    <div class="step-bar"><${Icon} name="tool" /><code>${call.tool || t('malformed')}</code><span class="state" data-kind=${kind}>${t(`kind_${kind}`)}</span>
      <span class="grow"></span>${result && html`<small>${seconds(result.seconds)}</small>`}<small class="wide-only">${call.id}</small></div>
    <${Arguments} call=${call} />
    ${waits && html`<${Ask} step=${step} />`}
    ${approval?.decision === 'denied' && html`<p class="hint">${t('denied')} ${approval.reason}</p>`}
    ${tables.map((source) => html`<${Table} source=${source} />`)}
    ${result && (!tables.length || result.kind !== 'ok') && html`<${Output} text=${result.text} whole=${result.whole} />`}
    ${pictures.map((a) => html`<${Picture} key=${a.sha256} artefact=${a} />`)}
  </section>`
}

// The answer, and each number in it with the call that gave it.
function Answer({ text }) {
  const numbers = run.value.numbers ?? []
  const unsupported = numbers.filter((n) => n.source === null)
  const jump = (id) => {
    const box = document.getElementById(id)
    box?.scrollIntoView({ block: 'center' })
    box?.focus()
  }
  return html`<${Markdown} text=${text} />
    ${numbers.length > 0 && html`<div class="numbers" role="group" aria-label=${t('numbers')}><span>${t('numbers')}</span>
      ${numbers.map((n, i) => (n.source === null
        ? html`<span key=${i} class="number bad" title=${n.reason}>${n.text} · ${t('unsupported')}</span>`
        : n.source === 'task'
          ? html`<span key=${i} class="number">${n.text} · ${t('task')}</span>`
          : html`<button key=${i} type="button" class="number" onClick=${() => jump(n.source)}>${n.text} · ${n.source}</button>`))}
      ${unsupported.length > 0 && html`<p class="fault" role="note">${t('notTraced', unsupported.length)}</p>`}</div>`}`
}

function Files({ finish }) {
  const { added = {}, changed = {}, removed = {} } = finish.files ?? {}
  const rows = [...Object.entries(added).map(([n, s]) => [n, 'added', s]), ...Object.entries(changed).map(([n, s]) => [n, 'changed', s[1]]), ...Object.entries(removed).map(([n]) => [n, 'removed', null])]
  const diff = run.value.diff
  return html`<${Fold} icon="file" label=${t('workspace')} more=${t('filesChanged', rows.length)} open=${rows.length > 0 && rows.length < 8}>
    <div class="call-list"><ul class="files-list">${rows.map(([name, what, state]) => html`<li key=${name}><span class="state" data-kind=${what}>${t(what)}</span> <code>${name}</code>
        ${state && html`<small>${t('bytes', number(state.bytes))}</small><${Button} class="quiet" icon="down" label=${t('download', name)} onClick=${() => tried(() => download(place(`workspace/${name}`), name))} />`}</li>`)}</ul>
      ${diff?.lines?.length > 0 && html`<${Fold} icon="pen" label=${t('difference')}><pre class="diff" tabindex="0">${diff.lines.map((line, i) => html`<span key=${i} data-sign=${/^[+-]/.test(line) ? line[0] : undefined}>${line + '\n'}</span>`)}</pre><//>`}
    </div><//>`
}

const open = (name) => (key.value ? tried(() => download(place(name), name)) : window.open(place(name), '_blank', 'noopener'))

function Ending({ finish }) {
  const { state, error } = run.value
  if (state === 'running') return null
  const cut = state === 'stopped' || error
  return html`${cut && html`<div class="cut" data-state=${error ? 'error' : 'stopped'}><span>${error || t('stopped')}</span><${Button} icon="play" text=${t('goOn')} onClick=${goOnRun} /></div>`}
    ${finish && !finish.answer && html`<div class="cut" data-state="error"><span>${t('noAnswer', finish.stop_reason)}</span></div>`}
    ${finish && html`<div class="actions"><${Copy} text=${finish.answer} /><${Button} class="quiet" icon="file" text=${t('report')} onClick=${() => open(run.value.page ? 'report.html' : 'report.md')} />
      <${Button} class="quiet" icon="down" text=${t('eventLog')} onClick=${() => tried(() => download(place('events.jsonl'), 'events.jsonl'))} /></div>`}`
}

export function AgentThread() {
  const { events, live, state } = run.value
  const box = useRef()
  const follows = useRef(true)
  useEffect(() => {
    if (follows.current) box.current.scrollTop = box.current.scrollHeight
  })
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current
    follows.current = scrollHeight - scrollTop - clientHeight < 60
  }
  const first = events.find((e) => e.event === 'run')
  const finish = events.findLast((e) => e.event === 'finish')
  const task = run.value.title
  const list = steps(events)
  const joined = (kind) => live.filter(([k]) => k === kind).map(([, text]) => text).join('')
  return html`<div class="thread" ref=${box} onScroll=${onScroll} tabindex="0" role="region" aria-label=${task}>
    <div class="column">
      <article class="message user" aria-label=${t('you')}><div class="bubble">
        ${Object.entries(first?.files ?? {}).map(([name, size]) => html`<${Attached} key=${name} file=${{ name, size }} />`)}<div class="said">${task}</div></div></article>
      <article class="message assistant" aria-label=${t('assistant')} aria-busy=${state === 'running'}>
        ${list.map((s, i) => (s.kind === 'note'
          ? html`<p class="hint note" key=${i}>${s.text}</p>`
          : s.kind === 'summary' ? html`<div class="turn" key=${i}><${Summary} summary=${s.summary} /></div>`
          : html`<div class="turn" key=${i}>
              ${s.turn.thinking && html`<${Thought} text=${s.turn.thinking} time=${s.turn.seconds} />`}
              ${s.turn.answer && (s.calls.length > 0 || !finish || i < list.length - 1) && html`<${Markdown} text=${s.turn.answer} />`}
              ${s.calls.map((c) => html`<${Call} key=${c.call.id} step=${c} waits=${state === 'waiting' && c.approval?.decision === 'ask' && !c.result} />`)}</div>`))}
        ${state === 'running' && html`<div class="turn">${joined('reasoning') && html`<${Thought} text=${joined('reasoning')} now />`}
          ${joined('content') && html`<${Markdown} text=${joined('content')} />`}${joined('call') && html`<pre class="drafting">${joined('call')}</pre>`}<span class="waiting" aria-hidden="true"></span></div>`}
        ${finish?.answer && html`<${Answer} text=${finish.answer} />`}
        ${finish && html`<${Files} finish=${finish} />`}
        <${Ending} finish=${finish} />
      </article>
    </div></div>`
}

// What the run has used of what it may, and the button that stops it.
export function AgentBar() {
  const { events, state } = run.value
  const first = events.find((e) => e.event === 'run')
  if (!first) return html`<div class="composer agent-bar"></div>`
  const turns = events.filter((e) => e.event === 'model_turn' || e.event === 'summary')
  const rows = [['modelCalls', turns.length, first.limits.model_calls], ['toolCalls', events.filter((e) => e.event === 'call').length, first.limits.tool_calls]]
  const tokens = turns.reduce((sum, e) => sum + e.tokens, 0)
  return html`<div class="composer agent-bar"><div class="frame row" role="group" aria-label=${t('budgets')}>
    ${rows.map(([word, used, most]) => html`<span class="context" key=${word}><span>${t(word)}</span><meter min="0" max=${most} high=${0.8 * most} value=${used} aria-label=${t(word)}></meter><b>${used}/${most}</b></span>`)}
    <span class="context wide-only">${t('tokens', number(tokens))} · ${seconds(events.at(-1).s)}</span><span class="grow"></span>
    ${state === 'running'
      ? html`<${Button} class="round" icon="stop" label=${t('stop')} onClick=${stopRun} />`
      : html`<span class="state" data-kind=${state}>${t(`state_${state}`)}</span>`}</div></div>`
}
