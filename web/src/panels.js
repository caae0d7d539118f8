import { useEffect, useRef, useState } from 'preact/hooks'
import { key } from './api.js'
import { Button, html } from './html.js'
import { language, t } from './i18n.js'
import { dialog, loadList, loadModel, model, options, presets, setOptions, setSetting } from './state.js'

function Dialog({ title, children }) {
  const box = useRef()
  useEffect(() => box.current.showModal(), [])
  const outside = (e) => e.target === box.current && box.current.close()
  return html`<dialog ref=${box} aria-label=${title} onClose=${() => (dialog.value = '')} onClick=${outside}>
    <div class="inside"><div class="top"><h2>${title}</h2><${Button} class="quiet" icon="close" label=${t('close')} onClick=${() => box.current.close()} /></div>${children}</div>
  </dialog>`
}

// The slider is finer where budgets are small: its position is a power of two.
const STEPS = 100
const lowest = 64
const toBudget = (at, most) => (at === 0 ? 0 : Math.round(lowest * (most / lowest) ** (at / STEPS)))
const toPlace = (n, most) => (n < lowest ? 0 : Math.round((STEPS * Math.log(n / lowest)) / Math.log(most / lowest)))

export function Budget() {
  const most = Math.max(lowest * 2, model.value.max_model_len)
  const set = options.value.settings.thinking_token_budget ?? null
  const put = (n) => setSetting('thinking_token_budget', n)
  const [moving, move] = useState(null)
  const shown = moving ?? set
  return html`<fieldset class="budget"><legend>${t('budget')}</legend>
    <input type="range" min="0" max=${STEPS} aria-label=${t('budget')} aria-valuetext=${shown === null ? t('noLimit') : shown} value=${shown === null ? STEPS : toPlace(shown, most)}
      onInput=${(e) => move(toBudget(Number(e.target.value), most))} onChange=${(e) => (move(null), put(toBudget(Number(e.target.value), most)))} />
    <div class="row"><input type="number" min="0" step="1" aria-label=${t('budget')} placeholder=${t('noLimit')} value=${shown ?? ''}
      onChange=${(e) => put(e.target.value === '' ? null : Math.max(0, Math.round(e.target.value)))} />
      <label class="check"><input type="checkbox" checked=${set === null} onChange=${(e) => put(e.target.checked ? null : 1024)} />${t('unlimited')}</label></div>
    <p class="hint">${t('budgetHint')}</p></fieldset>`
}

const NUMBERS = [
  ['temperature', 0, 2, 0.05], ['top_p', 0.01, 1, 0.01], ['top_k', -1, 1000, 1], ['min_p', 0, 1, 0.01], ['repetition_penalty', 0.01, 2, 0.01],
  ['presence_penalty', -2, 2, 0.1], ['frequency_penalty', -2, 2, 0.1], ['max_tokens', 1, 1e6, 1], ['seed', 0, 2 ** 53 - 1, 1],
]

// What holds where a field is empty: the model's own values, else those of the API.
const ENGINE = { temperature: 1, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0 }
function placeholder(name) {
  if (name === 'seed') return t('random')
  if (name === 'max_tokens') return t('restOfContext')
  const value = model.value.sampling?.[name] ?? ENGINE[name]
  return name === 'top_k' && !value ? t('off') : String(value)
}

// System prompt and settings under a name, kept in this browser.
function Presets() {
  const [name, setName] = useState('')
  const apply = (e) => {
    const chosen = presets.value.find((p) => p.name === e.target.value)
    setName(chosen?.name ?? '')
    setOptions(chosen ? { system: chosen.system, settings: chosen.settings } : { system: '', settings: {} })
  }
  const others = () => presets.value.filter((p) => p.name !== name.trim())
  const save = () => (presets.value = [...others(), { name: name.trim(), system: options.value.system, settings: options.value.settings }].sort((a, b) => a.name.localeCompare(b.name)))
  const isKept = presets.value.some((p) => p.name === name.trim())
  return html`<fieldset><legend>${t('presets')}</legend><div class="row presets">
    <select aria-label=${t('presets')} onChange=${apply}><option value="">${t('model')}</option>
      ${presets.value.map((p) => html`<option key=${p.name} value=${p.name} selected=${p.name === name}>${p.name}</option>`)}</select>
    <input aria-label=${t('presetName')} placeholder=${t('presetName')} maxlength="80" value=${name} onInput=${(e) => setName(e.target.value)} />
    <${Button} text=${t('save')} disabled=${!name.trim()} onClick=${save} />
    ${isKept && html`<${Button} class="danger" text=${t('remove')} onClick=${() => ((presets.value = others()), setName(''))} />`}</div></fieldset>`
}

export function Settings({ theme }) {
  const { system, settings } = options.value
  const [fault, setFault] = useState('')
  const tools = (e) => {
    if (!e.target.value.trim()) return setFault(''), setSetting('tools', null)
    try {
      const list = JSON.parse(e.target.value)
      setFault(Array.isArray(list) ? '' : t('badJson'))
      if (Array.isArray(list)) setSetting('tools', list)
    } catch {
      setFault(t('badJson'))
    }
  }
  const stops = (e) => {
    const lines = e.target.value.split('\n').filter(Boolean)
    setSetting('stop', lines.length ? lines : null)
  }
  const number = ([name, min, max, step]) => html`<label key=${name}>${t(name)}
    <input type="number" name=${name} min=${min} max=${max} step=${step} placeholder=${placeholder(name)} value=${settings[name] ?? ''}
      onChange=${(e) => e.target.reportValidity() && setSetting(name, e.target.value === '' ? null : Number(e.target.value))} /></label>`
  const choice = (name, state, values) => html`<label>${t(name)}<select value=${state.value} onChange=${(e) => (state.value = e.target.value)}>
    ${values.map(([value, word]) => html`<option value=${value} selected=${state.value === value}>${word}</option>`)}</select></label>`
  const newKey = (e) => {
    key.value = e.target.value.trim()
    loadModel()
    loadList()
  }
  return html`<${Dialog} title=${t('settings')}>
    <${Presets} />
    <label>${t('system')}<textarea rows="4" onChange=${(e) => setOptions({ system: e.target.value })} value=${system}></textarea></label>
    <${Budget} />
    <fieldset><legend>${t('sampling')}</legend><p class="hint">${t('emptyMeans')}</p><div class="grid">${NUMBERS.map(number)}</div>
      <label>${t('stopTexts')}<textarea rows="2" onChange=${stops} value=${(settings.stop ?? []).join('\n')}></textarea></label></fieldset>
    <label>${t('toolsJson')}<textarea rows="3" class="mono" onChange=${tools} aria-invalid=${fault ? 'true' : undefined} defaultValue=${settings.tools ? JSON.stringify(settings.tools, null, 1) : ''}></textarea>
      ${fault && html`<span class="fault" role="alert">${fault}</span>`}</label>
    <p class="hint">${t('applies')}</p>
    <div class="grid">${choice('language', language, [['en', 'English'], ['zh', '中文']])}${choice('theme', theme, ['auto', 'light', 'dark'].map((v) => [v, t(v)]))}
      <label>${t('key')}<input type="password" autocomplete="off" value=${key.value} onChange=${newKey} /></label></div>
  <//>`
}

const mod = /Mac|iP/.test(navigator.platform) ? '⌘' : 'Ctrl'
const KEYS = [
  [['Enter'], 'kSend'], [['Shift', 'Enter'], 'kLine'], [['Esc'], 'kStop'], [['↑'], 'kEdit'], [['/'], 'kFocus'], [[mod, 'Shift', 'O'], 'kNew'], [[mod, 'K'], 'kSearch'],
  [[mod, 'Shift', 'S'], 'kSidebar'], [[mod, ','], 'kSettings'], [[mod, 'Shift', 'Y'], 'kCopy'], [['?'], 'kHelp'],
]
export const Help = () => html`<${Dialog} title=${t('help')}><dl class="keys">${KEYS.map(([keys, word]) => html`<div key=${word}><dt>${t(word)}</dt><dd>${keys.map((k) => html`<kbd>${k}</kbd>`)}</dd></div>`)}</dl><//>`
