// A signal that outlives the page, in localStorage.
import { effect, signal } from '@preact/signals'

export function kept(name, initial) {
  const place = `qwq.${name}`
  let value = initial
  try {
    value = JSON.parse(localStorage.getItem(place)) ?? initial
  } catch {
    localStorage.removeItem(place)
  }
  const made = signal(value)
  effect(() => localStorage.setItem(place, JSON.stringify(made.value)))
  return made
}
