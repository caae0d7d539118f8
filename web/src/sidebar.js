import { useEffect, useRef, useState } from 'preact/hooks'
import { download } from './api.js'
import { Button, html } from './html.js'
import { t } from './i18n.js'
import { offer, run } from './runs.js'
import { change, current, go, importText, list, loadList, more, query, remove, sidebarOpen, tried } from './state.js'

function group(updated) {
  const midnight = new Date().setHours(0, 0, 0, 0) / 1000
  return updated >= midnight ? 'today' : updated >= midnight - 86400 ? 'yesterday' : updated >= midnight - 6 * 86400 ? 'week' : 'older'
}

// The words of a search, marked in what it found.
function Marked({ text }) {
  const words = query.value.split(/\s+/).filter(Boolean).map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
  if (!words.length) return text
  return text.split(new RegExp(`(${words.join('|')})`, 'i')).map((part, i) => (i % 2 ? html`<mark>${part}</mark>` : part))
}

const folders = () => [...new Set(list.value.map((c) => c.folder).filter(Boolean))].sort((a, b) => a.localeCompare(b))

// Folders first, by name; then the others by age.
function grouped() {
  if (query.value) return [['', list.value]]
  const inside = Map.groupBy(list.value, (c) => c.folder)
  return [...folders().map((name) => [name, inside.get(name), true]), ...Map.groupBy(inside.get('') ?? [], (c) => t(group(c.updated)))]
}

function Row({ entry }) {
  const [renaming, rename] = useState(false)
  const [menu, setMenu] = useState(false)
  const box = useRef()
  useEffect(() => renaming && box.current.select(), [renaming])
  const done = (save) => {
    if (!box.current) return // leaving the box ends it again
    const title = box.current.value.trim().slice(0, 500)
    box.current = null
    rename(false)
    if (save && title) change(entry.id, { title })
  }
  const pick = (work) => () => (setMenu(false), work())
  const leave = (e) => !e.currentTarget.contains(e.relatedTarget) && setMenu(false)
  const is = current.value?.id === entry.id
  const title = entry.title || t('untitled')
  const move = () => {
    const name = prompt(t('folderName', folders().join(', ') || '–'), entry.folder)
    if (name !== null) change(entry.id, { folder: name.trim().slice(0, 80) })
  }
  const get = (format) => pick(() => tried(() => download(`/api/export?format=${format}&id=${entry.id}`)))
  const open = () => matchMedia('(max-width: 799px)').matches && (sidebarOpen.value = false)
  return html`<li class="entry" onFocusOut=${leave} onKeyDown=${(e) => e.key === 'Escape' && menu && (e.stopPropagation(), setMenu(false))}>
    ${renaming
      ? html`<input ref=${box} aria-label=${t('rename')} defaultValue=${entry.title} onBlur=${() => done(true)}
          onKeyDown=${(e) => { if (e.key === 'Enter' && !e.isComposing) done(true); else if (e.key === 'Escape') (e.stopPropagation(), done(false)) }} />`
      : html`<a href=${`#/${entry.id}${entry.message ? `@${entry.message}` : ''}`} aria-current=${is ? 'page' : undefined} onClick=${open}>
          <span class="name">${title}</span>${entry.snippet && html`<small><${Marked} text=${entry.snippet} /></small>`}</a>
        <${Button} class="quiet" icon="dots" label=${`${t('menu')}: ${title}`} aria-expanded=${menu} onClick=${() => setMenu(!menu)} />`}
    ${menu && html`<div class="menu">
      <${Button} text=${t('rename')} onClick=${pick(() => rename(true))} /><${Button} text=${t('move')} onClick=${pick(move)} />
      <${Button} text=${t('exportJson')} onClick=${get('json')} />
      <${Button} text=${t('exportMd')} onClick=${get('markdown')} />
      <${Button} class="danger" text=${t('remove')} onClick=${pick(() => confirm(t('removeSure', title)) && remove(entry.id))} /></div>`}
  </li>`
}

const Entries = ({ entries }) => html`<ul>${entries.map((c) => html`<${Row} key=${c.id} entry=${c} />`)}</ul>`

// The latest runs of the agent; one that waits for a person says so.
function Runs() {
  const [all, showAll] = useState(false)
  const shown = all ? offer.value.runs : offer.value.runs.slice(0, 5)
  const open = () => matchMedia('(max-width: 799px)').matches && (sidebarOpen.value = false)
  return html`<section><h3>${t('runs')}</h3><ul>${shown.map((r) => html`<li class="entry" key=${r.id}><a href=${`#/agent/${r.id}`} aria-current=${run.value?.id === r.id ? 'page' : undefined} onClick=${open}>
      <span class="name">${r.title}</span>${r.state !== 'finished' && html`<small class="state" data-kind=${r.state}>${t(`state_${r.state}`)}</small>`}</a></li>`)}</ul>
    ${!all && offer.value.runs.length > 5 && html`<${Button} class="quiet" text=${t('more')} onClick=${() => showAll(true)} />`}</section>`
}

export function Sidebar() {
  const wait = useRef()
  const file = useRef()
  const search = (e) => {
    query.value = e.target.value
    clearTimeout(wait.current)
    wait.current = setTimeout(() => loadList(), 150)
  }
  const bring = async (e) => {
    for (const f of e.target.files) await importText(await f.text())
    e.target.value = ''
  }
  return html`<div class="shade" onClick=${() => (sidebarOpen.value = false)}></div>
  <nav class="sidebar" aria-label=${t('sidebar')} inert=${!sidebarOpen.value}>
    <div class="top"><strong class="brand">qwq</strong><${Button} class="quiet" icon="plus" label=${t('newChat')} onClick=${() => { go(''); document.getElementById('ask')?.focus() }} /></div>
    <input id="search" type="search" placeholder=${t('search')} aria-label=${t('search')} value=${query.value} onInput=${search} />
    <div class="list">
      ${!query.value && offer.value.runs.length > 0 && html`<${Runs} />`}
      ${!list.value.length && (query.value || !offer.value.runs.length) && html`<p class="empty">${query.value ? t('noHit') : t('none')}</p>`}
      ${grouped().map(([name, entries, folder]) => folder
        ? html`<details class="folder" key=${`folder ${name}`} open><summary>${name}</summary><${Entries} entries=${entries} /></details>`
        : html`<section key=${name}>${name && html`<h3>${name}</h3>`}<${Entries} entries=${entries} /></section>`)}
      ${more.value && html`<${Button} class="quiet" text=${t('more')} onClick=${() => loadList(true)} />`}
    </div>
    <div class="bottom"><${Button} class="quiet" text=${t('importFile')} onClick=${() => file.current.click()} />
      <${Button} class="quiet" text=${t('exportAll')} onClick=${() => tried(() => download('/api/export?format=json'))} />
      <input ref=${file} type="file" accept=".json,.md,.markdown" multiple hidden aria-label=${t('importFile')} onChange=${bring} /></div>
  </nav>`
}
