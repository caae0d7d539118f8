import { memo } from './memo.js'
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import { Button, Icon, html } from './html.js'
import { number, seconds, t } from './i18n.js'
import { blocks, render, tools } from './markdown.js'
import { answer, editing, fork, giveResults, goOn, live, regenerate, rewrite, saveEdit, show, siblings, spoken } from './state.js'

const Block = memo(({ block, loaded }) => {
  const box = useRef()
  useLayoutEffect(() => {
    box.current.replaceChildren(render(block))
    for (const pre of box.current.querySelectorAll('pre')) addCopy(pre)
  }, [block.raw, loaded])
  return html`<div ref=${box} class="block"></div>`
}, (a, b) => a.block.raw === b.block.raw && a.loaded === b.loaded)

function addCopy(pre) {
  const bar = document.createElement('div')
  bar.className = 'code-bar'
  const name = document.createElement('span')
  name.textContent = pre.dataset.lang
  const button = document.createElement('button')
  button.type = 'button'
  button.textContent = t('copy')
  button.setAttribute('aria-label', t('code'))
  button.onclick = async () => {
    await copyText(pre.textContent)
    button.textContent = t('copied')
    setTimeout(() => (button.textContent = t('copy')), 1500)
  }
  bar.append(name, button)
  const frame = document.createElement('div')
  frame.className = 'code'
  pre.tabIndex = 0
  pre.replaceWith(frame)
  frame.append(bar, pre)
}

async function copyText(text) {
  await navigator.clipboard.writeText(text)
  spoken.value = t('copied')
}

export const Markdown = ({ text }) => html`<div class="prose">${blocks(text).map((b, i) => html`<${Block} key=${i} block=${b} loaded=${tools.value.katex} />`)}</div>`

function useClock(on) {
  const [, tick] = useState(0)
  useEffect(() => {
    if (!on) return
    const timer = setInterval(() => tick((n) => n + 1), 250)
    return () => clearInterval(timer)
  }, [on])
}

function Thinking({ message }) {
  const streaming = message.state === 'streaming'
  const now = streaming && !message.content && !message.tool_calls.length
  const [chosen, choose] = useState(null)
  const box = useRef()
  const open = chosen ?? now
  const seen = live.value.get(message.id)
  useClock(now)
  useEffect(() => {
    if (now && open && box.current) box.current.scrollTop = box.current.scrollHeight
  })
  const { stats } = message
  const time = seen ? ((seen.answer || performance.now()) - (seen.first || seen.started)) / 1000 + (stats.thinking_s ?? 0) : (stats.thinking_s ?? 0)
  const tokens = seen ? seen.thought + (stats.reasoning_tokens ?? 0) : stats.reasoning_tokens
  const hit = !now && stats.thinking_token_budget != null && stats.reasoning_tokens >= stats.thinking_token_budget
  return html`<div class="thinking" data-now=${now ? '' : undefined}>
    <button type="button" class="fold" aria-expanded=${open} onClick=${() => choose(!open)}>
      <${Icon} name="bulb" /><span class="label">${now ? t('thinking') + ' · ' + seconds(time) : time ? t('thoughtFor', seconds(time)) : t('thought')}</span>
      ${tokens > 0 && html`<span>· ${t('tokens', number(tokens))}</span>`}${hit && html`<span>· ${t('budgetHit')}</span>`}<${Icon} name="right" />
    </button>
    ${open && html`<div class="thoughts" ref=${box} tabindex="0" role="group" aria-label=${t('thinking')}><${Markdown} text=${message.reasoning} /></div>`}
  </div>`
}

function Calls({ messages, last }) {
  const calls = messages.flatMap((m) => m.tool_calls.map((c) => ({ ...c, result: messages.find((r) => r.role === 'tool' && r.tool_call_id === c.id)?.content })))
  const asking = messages.at(-1)
  const open = last && asking.role === 'assistant' && asking.tool_calls.length > 0 && asking.state === 'complete'
  const [chosen, choose] = useState(null)
  const results = useRef([])
  return html`<div class="calls">
    <button type="button" class="fold" aria-expanded=${chosen ?? open} onClick=${() => choose(!(chosen ?? open))}>
      <${Icon} name="tool" /><span>${calls.length === 1 ? t('call') : t('calls', calls.length)}: ${[...new Set(calls.map((c) => c.name))].join(', ')}</span><${Icon} name="right" />
    </button>
    ${(chosen ?? open) && html`<div class="call-list">
      ${calls.map((c) => html`<div class="one-call" key=${c.id}><code>${c.name}</code><pre tabindex="0">${pretty(c.arguments)}</pre>
        ${c.result !== undefined && html`<div class="result"><span>${t('result')}</span><pre tabindex="0">${c.result}</pre></div>`}</div>`)}
      ${open && html`<form onSubmit=${(e) => (e.preventDefault(), giveResults(asking, results.current))}>
        ${asking.tool_calls.map((c, i) => html`<label>${t('giveResult', c.name)}<textarea rows="2" onInput=${(e) => (results.current[i] = e.target.value)}></textarea></label>`)}
        <button class="primary">${t('sendResults')}</button></form>`}
    </div>`}
  </div>`
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2)
  } catch {
    return text
  }
}

function Versions({ message }) {
  const all = siblings(message)
  if (all.length < 2) return null
  const at = all.findIndex((m) => m.id === message.id)
  return html`<span class="versions"><${Button} class="quiet" icon="left" label=${t('previous')} disabled=${at === 0} onClick=${() => show(all[at - 1].id)} />
    <span aria-live="polite">${at + 1}/${all.length}</span>
    <${Button} class="quiet" icon="right" label=${t('next')} disabled=${at === all.length - 1} onClick=${() => show(all[at + 1].id)} /></span>`
}

export function Copy({ text }) {
  const [done, set] = useState(false)
  const go = async () => {
    await copyText(text)
    set(true)
    setTimeout(() => set(false), 1500)
  }
  return html`<${Button} class="quiet" icon=${done ? 'check' : 'copy'} label=${done ? t('copied') : t('copy')} onClick=${go} />`
}

function Figures({ message }) {
  const streaming = message.state === 'streaming'
  useClock(streaming)
  const seen = live.value.get(message.id)
  const { stats } = message
  const rate = seen ? seen.count > 1 && (seen.count - 1) / ((performance.now() - seen.first) / 1000) : stats.tokens_per_s
  const total = seen ? seen.count : stats.completion_tokens
  const first = seen ? seen.first && (seen.first - seen.started) / 1000 : stats.ttft_s
  return html`<span class="figures">${total > 0 && html`<span>${t('tokens', number(total))}</span>`}
    ${rate > 0 && html`<span>${t('rate', rate.toFixed(1))}</span>`}${first > 0 && html`<span>${t('ttft', first.toFixed(2))}</span>`}</span>`
}

export const Attached = ({ file, onRemove }) => html`<span class="attached"><${Icon} name="file" /><span class="name">${file.name}</span>
  <small>${file.text === undefined ? t('bytes', number(file.size)) : /\.csv$/i.test(file.name) ? t('rows', number(file.text.trimEnd().split('\n').length)) : t('chars', number(file.text.length))}</small>
  ${onRemove && html`<${Button} class="quiet" icon="close" label=${t('detach', file.name)} onClick=${onRemove} />`}</span>`

// The text of a message in a box. Enter sends a question; in an answer it begins a line.
function Edit({ message, word, done, onEnter }) {
  const box = useRef()
  useEffect(() => (box.current.focus(), box.current.setSelectionRange(box.current.value.length, box.current.value.length)), [])
  const save = (e) => (e.preventDefault(), done(message, box.current.value))
  const keys = (e) => {
    if (e.key === 'Enter' && !e.isComposing && (onEnter ? !e.shiftKey : e.ctrlKey || e.metaKey)) save(e)
  }
  return html`<form class="edit" onSubmit=${save}>
    <textarea ref=${box} rows=${Math.min(12, message.content.split('\n').length + 1)} aria-label=${t('edit')} onKeyDown=${keys} defaultValue=${message.content}></textarea>
    <div class="row"><${Button} text=${t('cancel')} onClick=${() => (editing.value = 0)} /><button class="primary">${word}</button></div></form>`
}

const Fork = ({ message }) => html`<${Button} class="quiet" icon="fork" label=${t('fork')} onClick=${() => fork(message)} />`

export function Message({ message, last }) {
  return html`<article class="message user" aria-label=${t('you')}>
    ${editing.value === message.id
      ? html`<${Edit} message=${message} word=${t('send')} done=${saveEdit} onEnter />`
      : html`<div class="bubble">${message.attachments.map((f) => html`<${Attached} key=${f.name} file=${f} />`)}<div class="said">${message.content}</div></div>
          <div class="actions"><${Versions} message=${message} /><${Copy} text=${message.content} />
            <${Button} class="quiet" icon="pen" label=${t('edit')} onClick=${() => (editing.value = message.id)} /><${Fork} message=${message} />
            ${last && html`<${Button} class="quiet" icon="play" label=${t('answerIt')} onClick=${() => answer(message)} />`}</div>`}
  </article>`
}

export function ToolTurn({ turn, last }) {
  const final = turn.at(-1).role === 'tool' ? turn.findLast((m) => m.role === 'assistant') ?? turn[0] : turn.at(-1)
  const streaming = final.state === 'streaming'
  const editable = turn.filter((m) => m.role === 'assistant').length === 1 && !final.tool_calls.length && editing.value !== final.id
  const cut = ['stopped', 'interrupted', 'length', 'error'].includes(final.state)
  const text = turn.filter((m) => m.role === 'assistant').map((m) => m.content).filter(Boolean).join('\n\n')
  return html`<article class="message assistant" aria-label=${t('assistant')} aria-busy=${streaming}>
    ${turn.filter((m) => m.reasoning).map((m) => html`<${Thinking} key=${m.id} message=${m} />`)}
    ${turn.some((m) => m.tool_calls.length) && html`<${Calls} messages=${turn} last=${last} />`}
    ${editing.value === final.id ? html`<${Edit} message=${final} word=${t('save')} done=${rewrite} />` : text && html`<${Markdown} text=${text} />`}
    ${streaming && !final.content && !final.reasoning && !final.tool_calls.length && html`<span class="waiting" aria-hidden="true"></span>`}
    ${cut && html`<div class="cut" data-state=${final.state}><span>${final.state === 'error' ? final.error : t(final.state)}</span>
      ${!final.tool_calls.length && last && html`<${Button} icon="play" text=${t('goOn')} label=${t('goOn')} onClick=${() => goOn(final)} />`}</div>`}
    <div class="actions"><${Versions} message=${turn[0]} />${!streaming && html`<${Copy} text=${text} />
      <${Button} class="quiet" icon="again" label=${t('regenerate')} onClick=${() => regenerate(turn[0])} />
      ${editable && html`<${Button} class="quiet" icon="pen" label=${t('editAnswer')} onClick=${() => (editing.value = final.id)} />`}<${Fork} message=${turn.at(-1)} />`}<${Figures} message=${final} /></div>
  </article>`
}
