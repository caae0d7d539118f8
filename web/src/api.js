// The server's REST API. An error is an Error with the server's own words and the HTTP status.
import { kept } from './kept.js'

export const key = kept('key', '')

const headers = (more) => (key.value ? { ...more, Authorization: `Bearer ${key.value}` } : more)

export async function call(method, path, body, type = 'application/json', more = {}) {
  const raw = type !== 'application/json' || typeof body === 'string'
  const answer = await fetch(path, {
    ...more,
    method,
    headers: headers(body === undefined ? {} : { 'Content-Type': type }),
    body: body === undefined ? undefined : raw ? body : JSON.stringify(body),
  })
  if (!answer.ok) throw await failure(answer)
  return answer.json()
}

async function failure(answer) {
  const data = await answer.json().catch(() => null)
  const error = new Error(data?.error?.message ?? `${answer.status} ${answer.statusText}`)
  error.status = answer.status
  return error
}

// What a path holds as a data: URL; the page's policy lets pictures be nothing else.
export async function fetchData(path) {
  const answer = await fetch(path, { headers: headers({}) })
  if (!answer.ok) throw await failure(answer)
  const blob = await answer.blob()
  return new Promise((done) => {
    const reader = new FileReader()
    reader.onload = () => done(reader.result)
    reader.readAsDataURL(blob)
  })
}

export async function download(path, called) {
  const answer = await fetch(path, { headers: headers({}) })
  if (!answer.ok) throw await failure(answer)
  const name = /filename\*=UTF-8''([^;]+)/.exec(answer.headers.get('Content-Disposition') ?? '')?.[1]
  const link = document.createElement('a')
  link.href = URL.createObjectURL(await answer.blob())
  link.download = called?.split('/').at(-1) ?? (name ? decodeURIComponent(name) : 'conversations')
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000)
}

// Objects of an event stream, until it ends; a connection that breaks throws.
export async function* events(path, signal) {
  const answer = await fetch(path, { headers: headers({}), signal })
  if (!answer.ok) throw await failure(answer)
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    const parts = (rest + value).split('\n\n')
    rest = parts.pop()
    for (const part of parts) if (part.startsWith('data: ')) yield JSON.parse(part.slice(6))
  }
}
