// Runs of the agent: what the server keeps of them, and all that can be done with them.
import { batch, signal } from '@preact/signals'
import { call, events } from './api.js'
import { t } from './i18n.js'
import { defaults, files, model, models, notice, spoken, tried } from './state.js'
import { kept } from './kept.js'

export const offer = signal({ enabled: false, toolsets: [], runs: [] }) // what this server has
export const agentMode = kept('agent', false) // whether the next question is a task
export const toolsets = kept('toolsets', ['python'])
export const run = signal(null) // the one that is shown: {id, title, state, events, live, numbers, diff, error}

export const loadRuns = () => tried(async () => (offer.value = await call('GET', '/api/agent')))

const change = (id, fields) => run.value?.id === id && (run.value = { ...run.value, ...fields })

export const openRun = (id) => tried(async () => {
  if (run.value?.id === id) return
  run.value = { ...(await call('GET', `/api/agent/${id}`)), events: [], live: [], error: '' }
  await follow(id)
})

export const startRun = (task, attached) => tried(async () => {
  const known = toolsets.value.filter((name) => offer.value.toolsets.includes(name))
  const body = {
    task, files: attached.map(({ name, data }) => ({ name, data })), tools: known.length ? known : ['python'],
    thinking_budget: defaults.value.settings.thinking_token_budget ?? null, model: models.value.length > 1 ? model.value.id : null,
  }
  const made = await call('POST', '/api/agent', body)
  batch(() => {
    run.value = { ...made, events: [], live: [], error: '' }
    files.value = []
    spoken.value = t('thinking')
  })
  location.hash = `/agent/${made.id}`
  follow(made.id)
  return true
})

// Follow a run to its end, also over a connection that breaks.
async function follow(id, patience = 5) {
  while (run.value?.id === id) {
    try {
      for await (const data of events(`/api/agent/${id}/events?after=${run.value.events.length}`)) {
        if (run.value?.id !== id) return
        if (data.done) return ended(id, data.done)
        const { events: before, live } = run.value
        // A turn that is over is an event; what is live then belongs to the next one.
        const turned = data.events?.some((e) => e.event === 'model_turn')
        change(id, { events: [...before, ...(data.events ?? [])], live: [...(turned ? [] : live), ...(data.live ?? [])] })
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error
      if (patience-- <= 0) return void (notice.value = t('lost'))
    }
    change(id, { live: [] })
    await new Promise((done) => setTimeout(done, 1000))
  }
}

async function ended(id, done) {
  change(id, { ...done, live: [] })
  spoken.value = t(`state_${done.state}`)
  loadRuns()
  if (done.state !== 'finished') return
  await tried(async () => {
    const [{ numbers }, diff] = await Promise.all([call('GET', `/api/agent/${id}/numbers`), call('GET', `/api/agent/${id}/diff`)])
    change(id, { numbers, diff })
  })
}

export const stopRun = () => tried(async () => change(run.value.id, await call('POST', `/api/agent/${run.value.id}/stop`)))

const resume = (body) => tried(async () => {
  const { id } = run.value
  change(id, { ...(await call('POST', `/api/agent/${id}/resume`, body)), error: '' })
  follow(id)
  return true
})
export const goOnRun = () => resume({})
export const decide = (id, good, reason) => resume(good ? { approve: [id] } : { deny: [id], reason })
