"""Optimizer steps against independent ones: torch's own AdamW, and Muon by singular value decomposition."""

import numpy as np
import pytest


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_adamw_is_the_one_that_torch_ships(backend):
    import torch

    shapes, decays, steps = [(4, 3), (3,), (2, 2)], [0.1, 0.0, 0.4], 6
    start = [draw(*shape, seed=i) for i, shape in enumerate(shapes)]
    grads = [[draw(*shape, seed=100 * t + i) for i, shape in enumerate(shapes)] for t in range(steps)]

    peers = [torch.nn.Parameter(torch.tensor(p)) for p in start]
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(peers, decays, strict=True)]
    peer = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.95), eps=1e-4)
    params = [backend.array(p) for p in start]
    first, second = ([backend.zeros(shape) for shape in shapes] for _ in range(2))
    for t, step_grads in enumerate(grads, start=1):
        for p, g in zip(peers, step_grads, strict=True):
            p.grad = torch.tensor(g)
        peer.step()
        params, first, second = backend.updates.adamw(
            params, [backend.array(g) for g in step_grads], first, second, lr=0.05, beta1=0.9, beta2=0.95, eps=1e-4,
            correction1=1 - 0.9**t, correction2=1 - 0.95**t, decays=decays,
        )  # fmt: skip
        for p, right in zip(params, peers, strict=True):
            assert np.abs(backend.numpy(p) - right.detach().numpy()).max() < 2e-6, f"step {t}"


def test_the_first_adamw_step_has_the_size_of_the_learning_rate(backend):
    """With bias correction m/√v is ±1 at the first step, whatever the gradient's size; without it, 0.45 here."""
    grads = np.array([1e-3, -5.0, 20.0], np.float32)
    (p,), _, _ = backend.updates.adamw(
        [backend.zeros((3,))], [backend.array(grads)], [backend.zeros((3,))], [backend.zeros((3,))],
        lr=0.1, beta1=0.9, beta2=0.95, eps=1e-12, correction1=1 - 0.9, correction2=1 - 0.95, decays=[0.5],
    )  # fmt: skip
    assert np.allclose(backend.numpy(p), -0.1 * np.sign(grads), atol=1e-6)


def by_svd(x, steps=5):
    """Newton-Schulz changes nothing but the singular values: each goes through the same quintic."""
    u, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ vt


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5)])
def test_orthogonalize(backend, shape):
    x = np.stack([draw(*shape, seed=1), 100 * draw(*shape, seed=2)])
    found = backend.numpy(backend.updates.orthogonalize(backend.array(x), 5))
    assert np.abs(found - np.stack([by_svd(m) for m in x])).max() < 1e-4
    sizes = np.linalg.svd(found, compute_uv=False)
    assert sizes.min() > 0.5 and sizes.max() < 1.3


def test_orthogonalize_in_bfloat16(backend):
    """Close to the same in float32, and a float32 again: singular values from 0.5 to 1.3, as the authors use it."""
    x = np.stack([draw(16, 9, seed=1), 100 * draw(16, 9, seed=2)])
    found = backend.updates.orthogonalize(backend.array(x), 5, "bfloat16")
    assert backend.dtype(found) == "float32"
    gap = np.abs(backend.numpy(found) - backend.numpy(backend.updates.orthogonalize(backend.array(x), 5))).max()
    assert 1e-5 < gap < 0.1  # rounded, but the same
    sizes = np.linalg.svd(backend.numpy(found), compute_uv=False)
    assert sizes.min() > 0.5 and sizes.max() < 1.3


def test_muon_takes_each_matrix_by_itself_and_decays_apart_from_the_gradient(backend):
    """Two steps with different gradients, so that momentum and its look-ahead count; a tall one is scaled up."""
    shapes, lr, beta, decay = [(6, 3), (3, 5), (6, 3)], 0.1, 0.8, 0.5
    right = [draw(*shape, seed=i).astype(np.float64) for i, shape in enumerate(shapes)]
    params = [backend.array(p) for p in right]
    momentum = [np.zeros(shape) for shape in shapes]
    state = [backend.zeros(shape) for shape in shapes]
    for step in range(2):
        grads = [draw(*shape, seed=10 + 10 * step + i) for i, shape in enumerate(shapes)]
        params, state = backend.updates.muon(
            params, [backend.array(g) for g in grads], state, lr=lr, beta=beta, decay=decay
        )  # fmt: skip
        for i, g in enumerate(grads):
            momentum[i] = beta * momentum[i] + (1 - beta) * g
            update = by_svd((1 - beta) * g + beta * momentum[i])
            size = max(1, shapes[i][0] / shapes[i][1]) ** 0.5
            right[i] = right[i] - lr * decay * right[i] - lr * size * update
    for p, m, right_p, right_m in zip(params, state, right, momentum, strict=True):
        assert np.abs(backend.numpy(p) - right_p).max() < 1e-4
        assert np.abs(backend.numpy(m) - right_m).max() < 1e-6


@pytest.mark.parametrize("limit", [0.5, 5.0, 1000.0, 0.0])
def test_clipping_is_joint_and_keeps_the_direction(backend, limit):
    grads = [np.array([3.0, 0.0], np.float32), np.array([[4.0], [12.0]], np.float32)]  # joint norm 13
    clipped, norm = backend.updates.clip([backend.array(g) for g in grads], limit)
    assert float(norm) == pytest.approx(13, rel=1e-6)
    factor = min(1.0, limit / 13) if limit else 1.0
    for found, g in zip(clipped, grads, strict=True):
        assert np.allclose(backend.numpy(found), g * factor, rtol=1e-6)


def test_the_norm_of_a_large_matrix_has_all_its_digits(backend):
    """A million squares added one after the other are wrong in the fourth digit."""
    g = np.random.default_rng(0).standard_normal((1000, 1000), np.float32)
    norm = backend.updates.clip([backend.array(g)], 1.0)[1]
    assert float(norm) == pytest.approx(np.sqrt((g.astype(np.float64) ** 2).sum()), rel=2e-5)


def test_zero_gradients_are_no_division_by_zero(backend):
    clipped, norm = backend.updates.clip([backend.zeros((2, 2))], 1.0)
    assert float(norm) == 0 and backend.numpy(clipped[0]).tolist() == [[0, 0], [0, 0]]
    assert np.isfinite(backend.numpy(backend.updates.orthogonalize(backend.zeros((1, 2, 3)), 5))).all()


def test_sums_of_lists(backend):
    totals = [backend.array([1.0, 2.0]), backend.array([[3.0]])]
    terms = [backend.array([10.0, 20.0]), backend.array([[30.0]])]
    assert [backend.numpy(x).tolist() for x in backend.updates.add(totals, terms)] == [[11, 22], [[33]]]
    assert [backend.numpy(x).tolist() for x in terms] == [[10, 20], [[30]]]
