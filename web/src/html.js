import htm from 'htm'
import { h } from 'preact'

export const html = htm.bind(h)

const PATHS = {
  menu: 'M4 7h16M4 12h16M4 17h10', plus: 'M12 5v14M5 12h14', gear: 'M4 8h9m4 0h3M4 16h3m4 0h9M15 6v4M9 14v4', send: 'M12 19V5M6 11l6-6 6 6',
  stop: 'M8 8h8v8H8z', clip: 'M20 11l-8.5 8.5a5 5 0 0 1-7-7L13 4a3.3 3.3 0 0 1 4.7 4.7L9.4 17a1.7 1.7 0 0 1-2.4-2.4L14.5 7', copy: 'M9 9h11v11H9zM5 15H4V4h11v1',
  check: 'M5 13l4 4L19 7', pen: 'M4 20l1-4L16 5l3 3L8 19zM14 7l3 3', again: 'M20 11a8 8 0 1 0-2 6M20 5v6h-6', left: 'M14 7l-5 5 5 5', right: 'M10 7l5 5-5 5',
  down: 'M12 5v14M6 13l6 6 6-6', play: 'M8 5l11 7-11 7z', close: 'M6 6l12 12M18 6L6 18', dots: 'M6 12h.01M12 12h.01M18 12h.01', help: 'M9 9a3 3 0 1 1 4 3c-1 .5-1 1-1 2M12 17h.01',
  bulb: 'M9 18h6M10 21h4M12 3a6 6 0 0 0-3.5 11v1.5h7V14A6 6 0 0 0 12 3z', trash: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13', file: 'M6 3h8l4 4v14H6zM14 3v4h4', fork: 'M6 4v8a4 4 0 0 0 4 4h8M18 16l-3-3m3 3l-3 3M6 4l-3 3m3-3l3 3', clock: 'M12 3a9 9 0 1 1-.01 0M12 7v5l3 2', tool: 'M14 6a4 4 0 0 0 5 5l-9 9-4-4 9-9z',
}
export const Icon = ({ name }) => html`<svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true"><path d=${PATHS[name]} /></svg>`
export const Button = ({ icon, label, text, ...rest }) =>
  html`<button type="button" aria-label=${text ? undefined : label} title=${label} ...${rest}>${icon && html`<${Icon} name=${icon} />`}${text}</button>`
