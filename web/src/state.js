// What is shown, and all that can be done with it. The server keeps the truth; this follows it.
import { batch, computed, signal } from '@preact/signals'
import { call, events, key } from './api.js'
import { t } from './i18n.js'
import { kept } from './kept.js'

export const list = signal([])
export const more = signal(false)
export const query = signal('')
export const current = signal(null) // the conversation without its messages
export const messages = signal([])
export const models = signal([])
export const files = signal([]) // for the next question
export const temporary = signal(false) // whether the next conversation is kept nowhere
export const presets = kept('presets', []) // {name, system, settings}
export const notice = signal('')
export const spoken = signal('') // for screen readers
export const dialog = signal('') // settings, help, or none
export const editing = signal(0)
export const sidebarOpen = kept('sidebar', matchMedia('(min-width: 800px)').matches)
export const defaults = kept('defaults', { system: '', settings: {} })
export const live = signal(new Map()) // message id -> {started, first, answer, count, thought}

const kin = computed(() => Map.groupBy(messages.value, (m) => m.parent))
const byId = computed(() => new Map(messages.value.map((m) => [m.id, m])))
export const path = computed(() => {
  const found = []
  for (let id = current.value?.head ?? null; id !== null; id = byId.value.get(id).parent) {
    if (!byId.value.has(id)) break
    found.push(byId.value.get(id))
  }
  return found.reverse()
})
export const siblings = (message) => (kin.value.get(message.parent) ?? []).filter((m) => m.role === message.role)
export const running = computed(() => path.value.find((m) => m.state === 'streaming'))
export const options = computed(() => current.value ?? defaults.value)
export const model = computed(() => models.value.find((m) => m.id === options.value.settings.model) ?? models.value[0] ?? { id: '', max_model_len: 32768 })
export const isTemporary = computed(() => (current.value ? current.value.id.startsWith('t-') : temporary.value))
// Tokens that the conversation takes of the model's context, after its last answer.
export const used = computed(() => {
  const { stats } = path.value.findLast((m) => m.role === 'assistant' && m.stats.prompt_tokens) ?? {}
  return stats ? stats.prompt_tokens + (stats.completion_tokens ?? 0) : 0
})

export async function tried(work) {
  try {
    return await work()
  } catch (error) {
    if (error.status === 401) dialog.value = 'settings'
    notice.value = error.status === 401 ? t('needKey') : error instanceof TypeError ? t('lost') : error.message
    return undefined
  }
}

// A model may have several names; its first one stands for it.
export const loadModel = () => tried(async () => {
  const { data } = await call('GET', '/v1/models')
  models.value = data.filter((m, i) => data.findIndex((n) => (n.root ?? n.id) === (m.root ?? m.id)) === i)
})

let asked = 0
export const loadList = (next = false) => tried(async () => {
  const mine = ++asked
  const last = next ? list.value.at(-1) : null
  const ask = new URLSearchParams({ search: query.value, before: last ? `${last.updated},${last.id}` : '' })
  const found = await call('GET', `/api/conversations?${ask}`)
  if (mine !== asked) return // a later question has gone out
  batch(() => {
    list.value = next ? [...list.value, ...found.conversations] : found.conversations
    more.value = found.more
  })
})

// A temporary conversation ends when it is left.
function leave(next) {
  const id = current.value?.id
  if (id?.startsWith('t-') && id !== next) call('DELETE', `/api/conversations/${id}`, undefined, undefined, { keepalive: true }).catch(() => {})
}
addEventListener('pagehide', (e) => e.persisted || leave())

export const open = (id, message) => tried(async () => {
  leave(id)
  if (!id) {
    batch(() => ((current.value = null), (messages.value = [])))
    return
  }
  const { messages: all, ...conversation } = await call('GET', `/api/conversations/${id}`)
  if (location.hash.slice(2) !== id) return
  batch(() => ((current.value = conversation), (messages.value = all), (editing.value = 0)))
  if (message && !path.value.some((m) => m.id === message)) await show(message)
  for (const m of all) if (m.state === 'streaming') follow(m.id, m.pieces)
})

export const go = (id) => (location.hash = id ? `/${id}` : '')

const update = (id, change) => (messages.value = messages.value.map((m) => (m.id === id ? { ...m, ...change(m) } : m)))

// Follow an answer to its end, also over a connection that breaks.
const followed = new Set()
async function follow(id, after = 0, patience = 5) {
  if (followed.has(id)) return
  followed.add(id)
  const now = performance.now()
  live.value = new Map(live.value).set(id, { started: now, first: 0, answer: 0, count: 0, thought: 0 })
  let waiting = []
  const flush = () => {
    const pieces = waiting
    waiting = []
    update(id, (m) => joined(m, pieces))
  }
  for (;;) {
    try {
      for await (const event of events(`/api/messages/${id}/events?after=${after}`)) {
        if (event.done) {
          waiting = []
          batch(() => {
            update(id, () => event.done)
            const left = new Map(live.value)
            left.delete(id)
            live.value = left
          })
          followed.delete(id)
          if (path.value.at(-1)?.id === id) spoken.value = `${t('done')}. ${event.done.content.slice(0, 300)}`
          loadList()
          return
        }
        after = event.last
        count(id, event.pieces)
        if (waiting.push(...event.pieces) === event.pieces.length) requestAnimationFrame(flush) // once a frame
      }
    } catch (error) {
      if (!(error instanceof TypeError) || patience-- <= 0) {
        notice.value = t('lost')
        followed.delete(id)
        return
      }
    }
    await new Promise((done) => setTimeout(done, 1000))
  }
}

function count(id, pieces) {
  const seen = live.value.get(id)
  const now = performance.now()
  seen.first ||= now
  seen.count += pieces.length
  seen.thought += pieces.filter(([kind]) => kind === 'reasoning').length
  if (!seen.answer && pieces.some(([kind]) => kind !== 'reasoning')) seen.answer = now
}

function joined(message, pieces) {
  const change = { content: message.content, reasoning: message.reasoning, tool_calls: message.tool_calls.map((c) => ({ ...c })) }
  for (const [kind, text] of pieces) {
    if (kind !== 'tool') change[kind] += text
    else {
      const delta = JSON.parse(text)
      const made = (change.tool_calls[delta.index] ??= { id: '', name: '', arguments: '' })
      for (const name of ['id', 'name', 'arguments']) made[name] += delta[name] ?? ''
    }
  }
  return change
}

async function generate(body) {
  // The model that is shown is the one that answers: without a name it would be whichever is loaded.
  const name = models.value.length > 1 ? model.value.id : null
  if (models.value.length && (current.value.settings.model ?? null) !== name) await setSetting('model', name)
  const made = await call('POST', `/api/conversations/${current.value.id}/generate`, body)
  const fresh = [...made.messages, made.answer]
  batch(() => {
    messages.value = [...messages.value.filter((m) => !fresh.some((f) => f.id === m.id)), ...fresh].sort((a, b) => a.id - b.id)
    current.value = { ...current.value, head: made.answer.id, title: made.title }
    editing.value = 0
    spoken.value = t('thinking')
  })
  follow(made.answer.id)
  loadList()
}

export const say = (content, attachments) => tried(async () => {
  if (!current.value) {
    const made = await call('POST', '/api/conversations', { system: defaults.value.system, settings: defaults.value.settings, temporary: temporary.value })
    temporary.value = false
    current.value = made
    history.replaceState(null, '', `#/${made.id}`)
  }
  await generate({ parent: current.value.head, messages: [{ role: 'user', content, attachments }] })
  return true
})
export const saveEdit = (message, content) => tried(() => generate({ parent: message.parent, messages: [{ role: 'user', content, attachments: message.attachments }] }))
export const regenerate = (message) => tried(() => generate({ parent: message.parent }))
export const answer = (message) => tried(() => generate({ parent: message.id }))
export const goOn = (message) => tried(() => generate({ continue: message.id }))
export const giveResults = (message, results) => tried(() =>
  generate({ parent: message.id, messages: message.tool_calls.map((c, i) => ({ role: 'tool', tool_call_id: c.id, content: results[i] ?? '' })) }))
export const rewrite = (message, content) => tried(async () => {
  const made = await call('POST', `/api/messages/${message.id}/rewrite`, { content })
  batch(() => {
    messages.value = [...messages.value, made]
    current.value = { ...current.value, head: made.id }
    editing.value = 0
  })
})
export const fork = (message) => tried(async () => {
  const made = await call('POST', `/api/conversations/${current.value.id}/fork`, { message: message.id })
  await loadList()
  go(made.id)
})
export const asText = () =>
  path.value.filter((m) => m.content).map((m) => `**${t({ user: 'you', assistant: 'assistant', tool: 'result' }[m.role])}**\n\n${m.content}`).join('\n\n')
export const stop = () => running.value && tried(() => call('POST', `/api/messages/${running.value.id}/stop`))

// Show a version: the path goes on below it to the newest message.
export async function show(id) {
  while (kin.value.get(id)) id = kin.value.get(id).at(-1).id
  await change(current.value.id, { head: id })
}

export const change = (id, fields) => tried(async () => {
  const changed = await call('PATCH', `/api/conversations/${id}`, fields)
  if (current.value?.id === id) current.value = { ...current.value, ...changed }
  list.value = list.value.map((c) => (c.id === id ? { ...c, title: changed.title, folder: changed.folder } : c))
})

export async function setOptions(fields) {
  defaults.value = { ...defaults.value, ...fields }
  if (current.value) await change(current.value.id, fields)
}
export const setSetting = (name, value) => {
  const { [name]: _, ...rest } = Object.fromEntries(Object.entries(options.value.settings).filter(([, v]) => v !== null))
  return setOptions({ settings: value === null ? rest : { ...rest, [name]: value } })
}

export const remove = (id) => tried(async () => {
  await call('DELETE', `/api/conversations/${id}`)
  if (current.value?.id === id) go('')
  await loadList()
})

export const importText = (text) => tried(async () => {
  const { ids } = await call('POST', '/api/import', text, 'text/plain')
  await loadList()
  if (ids.length) go(ids[0])
})

export { key }
