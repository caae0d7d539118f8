import { Component, h } from 'preact'

// A component that is drawn again only when `same` says that its properties changed.
export const memo = (draw, same) =>
  class extends Component {
    shouldComponentUpdate(next) {
      return !same(this.props, next)
    }
    render(props) {
      return h(draw, props)
    }
  }
