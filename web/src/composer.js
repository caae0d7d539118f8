import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import { Button, Icon, html } from './html.js'
import { number, t } from './i18n.js'
import { Attached } from './message.js'
import { Budget } from './panels.js'
import { editing, notice, options, path, running, say, stop } from './state.js'

const LARGEST = 2 << 20

async function read(file) {
  if (file.size > LARGEST) return void (notice.value = t('tooLarge', file.name))
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer())
    if (!text.includes('\0')) return { name: file.name.slice(0, 255), text }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
  }
  return void (notice.value = t('notText', file.name))
}

export function Composer() {
  const box = useRef()
  const picker = useRef()
  const [text, setText] = useState('')
  const [files, setFiles] = useState([])
  const [budget, showBudget] = useState(false)
  useLayoutEffect(() => {
    box.current.style.height = 'auto'
    box.current.style.height = `${Math.min(box.current.scrollHeight, innerHeight * 0.4)}px`
  }, [text])
  const busy = Boolean(running.value)
  const send = async (e) => {
    e?.preventDefault()
    if (busy || (!text.trim() && !files.length)) return
    const kept = [text, files]
    setText('')
    setFiles([])
    if (!(await say(text.trim(), files))) (setText(kept[0]), setFiles(kept[1])) // what was typed is not lost
  }
  const keys = (e) => {
    if (e.isComposing || e.keyCode === 229) return // Enter picks a word in an input method
    if (e.key === 'Enter' && !e.shiftKey) send(e)
    else if (e.key === 'ArrowUp' && !text) editing.value = path.value.findLast((m) => m.role === 'user')?.id ?? 0
  }
  const add = async (list) => setFiles([...files, ...(await Promise.all([...list].map(read))).filter(Boolean)])
  const drop = (e) => e.dataTransfer.files.length && (e.preventDefault(), add(e.dataTransfer.files))
  const limit = options.value.settings.thinking_token_budget
  return html`<form class="composer" onSubmit=${send} onDragOver=${(e) => e.preventDefault()} onDrop=${drop}>
    ${budget && html`<div class="popover"><${Budget} /></div>`}
    <div class="frame">
      ${files.length > 0 && html`<div class="files">${files.map((f, i) => html`<${Attached} file=${f} onRemove=${() => setFiles(files.toSpliced(i, 1))} />`)}</div>`}
      <textarea id="ask" ref=${box} rows="1" placeholder=${t('ask')} aria-label=${t('ask')} value=${text} onInput=${(e) => setText(e.target.value)} onKeyDown=${keys} autofocus></textarea>
      <div class="row">
        <${Button} class="quiet" icon="clip" label=${t('attach')} onClick=${() => picker.current.click()} />
        <input ref=${picker} type="file" multiple hidden aria-label=${t('attach')} accept="text/*,.csv,.tsv,.md,.json,.py,.js,.ts,.c,.h,.cpp,.rs,.go,.java,.tex,.log,.toml,.yaml,.yml" onChange=${(e) => (add(e.target.files), (e.target.value = ''))} />
        <button type="button" class="quiet chip" aria-expanded=${budget} aria-label=${`${t('budget')}: ${limit == null ? t('noLimit') : number(limit)}`} onClick=${() => showBudget(!budget)}>
          <${Icon} name="bulb" />${limit == null ? t('noLimit') : number(limit)}</button>
        <span class="grow"></span>
        ${busy
          ? html`<${Button} class="round" icon="stop" label=${t('stop')} onClick=${stop} />`
          : html`<button class="round" aria-label=${t('send')} title=${t('send')} disabled=${!text.trim() && !files.length}><${Icon} name="send" /></button>`}
      </div>
    </div>
  </form>`
}
