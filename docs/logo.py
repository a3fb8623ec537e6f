"""The logo: a dimension tree over eight modes, as SVG."""

from htf import DimensionTree


def logo(size: int = 64) -> str:
    """Draw leaves below, the root above, and edges between a node and its children."""
    tree = DimensionTree.balanced(8)
    place: dict[int, tuple[float, float]] = {}
    for node in range(tree.n_nodes):
        modes = tree.modes(node)
        height = max((place[child][1] for child in tree.children(node)), default=-1) + 1
        place[node] = (sum(modes) / len(modes), height)
    top = place[tree.root][1]
    x = {node: 5 + 54 * across / (tree.order - 1) for node, (across, _) in place.items()}
    y = {node: 57 - 48 * up / top for node, (_, up) in place.items()}
    edges = [(node, child) for node in place for child in tree.children(node)]
    lines = [f'<path d="M{x[a]:.1f} {y[a]:.1f}L{x[b]:.1f} {y[b]:.1f}"/>' for a, b in edges]
    dots = [f'<circle cx="{x[n]:.1f}" cy="{y[n]:.1f}" r="{3 + 0.8 * place[n][1]:.1f}"/>' for n in place]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" width="{size}" height="{size}">'
        f'<g stroke="#0072b2" stroke-width="2.5" fill="none">{"".join(lines)}</g>'
        f'<g fill="#d55e00">{"".join(dots)}</g></svg>'
    )
