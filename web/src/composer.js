import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import { Button, Icon, html } from './html.js'
import { number, t } from './i18n.js'
import { add } from './files.js'
import { Attached } from './message.js'
import { Budget } from './panels.js'
import { agentMode, offer, startRun, toolsets } from './runs.js'
import { current, editing, files, model, options, path, running, say, stop, used } from './state.js'

const ACCEPTED = 'text/*,.pdf,.csv,.tsv,.md,.json,.py,.js,.ts,.c,.h,.cpp,.rs,.go,.java,.tex,.log,.toml,.yaml,.yml'

export function Composer() {
  const box = useRef()
  const picker = useRef()
  const [text, setText] = useState('')
  const [budget, showBudget] = useState(false)
  useLayoutEffect(() => {
    box.current.style.height = 'auto'
    box.current.style.height = `${Math.min(box.current.scrollHeight, innerHeight * 0.4)}px`
  }, [text])
  const busy = Boolean(running.value)
  const canTask = offer.value.enabled && !current.value
  const asTask = canTask && agentMode.value
  const flip = () => {
    files.value = [] // a task takes files as they are, a question their text
    agentMode.value = !agentMode.value
  }
  const pick = (name) => (toolsets.value = toolsets.value.includes(name) ? toolsets.value.filter((n) => n !== name) : [...toolsets.value, name])
  const send = async (e) => {
    e?.preventDefault()
    if (busy || (!text.trim() && (asTask || !files.value.length))) return
    const kept = [text, files.value]
    setText('')
    files.value = []
    if (!(await (asTask ? startRun : say)(text.trim(), kept[1]))) (setText(kept[0]), (files.value = kept[1])) // what was typed is not lost
  }
  const keys = (e) => {
    if (e.isComposing || e.keyCode === 229) return // Enter picks a word in an input method
    if (e.key === 'Enter' && !e.shiftKey) send(e)
    else if (e.key === 'ArrowUp' && !text) editing.value = path.value.findLast((m) => m.role === 'user')?.id ?? 0
  }
  const paste = (e) => e.clipboardData.files.length && (e.preventDefault(), add(e.clipboardData.files))
  const limit = options.value.settings.thinking_token_budget
  return html`<form class="composer" onSubmit=${send}>
    ${budget && html`<div class="popover"><${Budget} /></div>`}
    <div class="frame">
      ${files.value.length > 0 && html`<div class="files">${files.value.map((f, i) => html`<${Attached} file=${f} onRemove=${() => (files.value = files.value.toSpliced(i, 1))} />`)}</div>`}
      <textarea id="ask" ref=${box} rows="1" placeholder=${t(asTask ? 'giveTask' : 'ask')} aria-label=${t('ask')} value=${text} onInput=${(e) => setText(e.target.value)} onKeyDown=${keys} onPaste=${paste} autofocus></textarea>
      ${asTask && html`<div class="row toolsets" role="group" aria-label=${t('tools')}>${offer.value.toolsets.map((name) => html`<button key=${name} type="button" class="chip" aria-pressed=${toolsets.value.includes(name)} onClick=${() => pick(name)}>${name}</button>`)}</div>`}
      <div class="row">
        <${Button} class="quiet" icon="clip" label=${t(asTask ? 'attachAny' : 'attach')} onClick=${() => picker.current.click()} />
        <input ref=${picker} type="file" multiple hidden aria-label=${t('attach')} accept=${asTask ? undefined : ACCEPTED} onChange=${(e) => (add(e.target.files), (e.target.value = ''))} />
        ${canTask && html`<button type="button" class="quiet chip" aria-pressed=${agentMode.value} onClick=${flip}><${Icon} name="tool" />${t('agent')}</button>`}
        <button type="button" class="quiet chip" aria-expanded=${budget} aria-label=${`${t('budget')}: ${limit == null ? t('noLimit') : number(limit)}`} onClick=${() => showBudget(!budget)}>
          <${Icon} name="bulb" />${limit == null ? t('noLimit') : number(limit)}</button>
        <span class="grow"></span>
        ${used.value > 0 && html`<span class="context" title=${t('context')}><meter min="0" max=${model.value.max_model_len} high=${0.85 * model.value.max_model_len} value=${used.value} aria-label=${t('context')}></meter>
          <span>${number(used.value)} / ${number(model.value.max_model_len)}</span></span>`}
        ${busy
          ? html`<${Button} class="round" icon="stop" label=${t('stop')} onClick=${stop} />`
          : html`<button class="round" aria-label=${t('send')} title=${t('send')} disabled=${!text.trim() && (asTask || !files.value.length)}><${Icon} name="send" /></button>`}
      </div>
    </div>
  </form>`
}
