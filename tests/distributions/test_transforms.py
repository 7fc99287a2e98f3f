"""Properties of every flow, each against an oracle outside the code: autograd, quadrature, plain matrices."""

from __future__ import annotations

import itertools

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal

from ppl_text.core.errors import UnknownNameError
from ppl_text.distributions.transforms import (
    FLOWS,
    ClipOutside,
    ConditionalFlow,
    Diagonal,
    RealNVP,
    SoftplusDelta,
    Triangular,
    conditional_flow,
)
from ppl_text.nn.conditioner import Conditioner

from .flow_cases import AFFINE, CASES, FlowCase, affine_by_hand, conditional, randomised

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_affine_case = pytest.mark.parametrize("case", AFFINE.values(), ids=AFFINE)


def drawn(case: FlowCase, *lead: int, dim: int | None = None, scale: float = 0.8) -> tuple[object, Tensor, Tensor]:
    """A family in float64 with parameters θ (*lead, P) and noise (*lead, D)."""
    family = case.family(dim)
    return (
        family,
        torch.randn(*lead, family.param_dim, dtype=torch.float64) * scale,
        torch.randn(*lead, family.dim, dtype=torch.float64),
    )


@every_case
def test_inverse_undoes_forward_and_forward_undoes_inverse(case: FlowCase) -> None:
    family, params, x = drawn(case, 50)
    flow = family(params)
    torch.testing.assert_close(flow.inv(flow(x)), x, rtol=0, atol=1e-8)
    torch.testing.assert_close(flow(flow.inv(x)), x, rtol=0, atol=1e-8)
    assert not torch.allclose(flow(x), x, atol=0.1)


@every_case
def test_log_determinants_match_autograd(case: FlowCase) -> None:
    family, params, x = drawn(case, 6)
    for theta, point in zip(params, x, strict=True):
        flow = family(theta)
        expected = torch.linalg.slogdet(jacobian(flow, point)).logabsdet
        image, forward_ladj = flow.forward_and_ladj(point)
        back, inverse_ladj = flow.inverse_and_ladj(image)
        for found in (forward_ladj, inverse_ladj, flow.log_abs_det_jacobian(point, image)):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            flow.inv.log_abs_det_jacobian(image, back),
            torch.linalg.slogdet(jacobian(lambda y, f=flow: f.inverse_and_ladj(y)[0], image)).logabsdet,
            rtol=0,
            atol=1e-8,
        )


def grid(samples: Tensor, points: int) -> tuple[Tensor, float]:
    """A grid (points^D, D) stretched to 7 standard deviations of the samples all round, and its cell's volume."""
    dim = samples.shape[-1]
    factor = torch.linalg.cholesky(torch.cov(samples.T).reshape(dim, dim))
    axis = torch.linspace(-7, 7, points, dtype=torch.float64)
    corners = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    return samples.mean(0) + corners @ factor.T, float(torch.det(factor) * (axis[1] - axis[0]) ** dim)


LOW = {f"{name}, D={d}": (case, d) for name, case in CASES.items() for d in case.dims if d <= 2}


@pytest.mark.parametrize(("case", "dim"), LOW.values(), ids=LOW)
def test_density_through_pyros_own_classes_integrates_to_one(case: FlowCase, dim: int) -> None:
    flow = conditional(case, dim)
    base = dist.Normal(torch.zeros(dim, dtype=torch.float64), 1.0).to_event(1)
    for state in torch.randn(2, dim, dtype=torch.float64):
        by_transform = dist.TransformedDistribution(base, [flow.condition(state)])
        by_context = dist.ConditionalTransformedDistribution(base, [flow]).condition(state)
        with torch.no_grad():
            points, cell = grid(by_transform.sample((2000,)), points=4001 if dim == 1 else 301)
            log_density = by_transform.log_prob(points)
            # A flow that is not Gaussian leaves some mass beyond the grid.
            assert abs(float(log_density.exp().sum()) * cell - 1.0) < (1e-6 if case.affine else 1e-2)
            torch.testing.assert_close(by_context.log_prob(points[::97]), log_density[::97])


def test_paper_masks_integrate_to_the_density_of_the_untouched_coordinates() -> None:
    flow = conditional(CASES["nvp paper"], 3)
    base = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    density = dist.TransformedDistribution(base, [flow.condition(torch.ones(3, dtype=torch.float64))])
    axis = torch.linspace(-60, 60, 30_001, dtype=torch.float64)
    for fixed in torch.randn(3, 2, dtype=torch.float64):
        points = torch.cat([fixed.expand(len(axis), 2), axis[:, None]], dim=-1)
        with torch.no_grad():
            mass = density.log_prob(points).exp().sum() * (axis[1] - axis[0])
        expected = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).log_prob(fixed).sum().exp()
        torch.testing.assert_close(mass, expected, rtol=1e-7, atol=0)


@every_case
def test_leading_axes_equal_the_loop(case: FlowCase) -> None:
    family, params, x = drawn(case, 3, 4)
    for method in ("forward_and_ladj", "inverse_and_ladj"):
        value, ladj = getattr(family(params), method)(x)
        assert value.shape == (3, 4, family.dim)
        assert ladj.shape == (3, 4)
        for k, b in itertools.product(range(3), range(4)):
            one, one_ladj = getattr(family(params[k, b]), method)(x[k, b])
            torch.testing.assert_close(value[k, b], one)
            torch.testing.assert_close(ladj[k, b], one_ladj)


@every_case
def test_particles_share_parameters_and_parameters_share_noise(case: FlowCase) -> None:
    family, params, x = drawn(case, 3, 4)
    for theta, point in ((params[0], x), (params, x[0])):
        full = family(theta.expand(3, 4, -1)), point.expand(3, 4, -1)
        for method in ("forward_and_ladj", "inverse_and_ladj"):
            found = getattr(family(theta), method)(point)
            expected = getattr(full[0], method)(full[1])
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(case: FlowCase, dtype: torch.dtype) -> None:
    family = case.family(dtype=dtype)
    flow = family(torch.randn(2, family.param_dim, dtype=dtype))
    for method in (flow.forward_and_ladj, flow.inverse_and_ladj):
        assert [out.dtype for out in method(torch.randn(2, family.dim, dtype=dtype))] == [dtype, dtype]


@every_case
def test_bf16_inputs_are_lifted_before_any_arithmetic(case: FlowCase) -> None:
    family = case.family(dtype=torch.float32)
    params, x = torch.randn(20, family.param_dim).bfloat16(), torch.randn(20, family.dim).bfloat16()
    for method in ("forward_and_ladj", "inverse_and_ladj"):
        expected = getattr(family(params.float()), method)(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            found = getattr(family(params), method)(x)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype is torch.float32
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@every_case
def test_log_density_under_autocast_is_float32_with_finite_gradients(case: FlowCase) -> None:
    dim = case.dims[-1]
    flow = conditional(case, dim, context_dim=2, dtype=torch.float32)
    base = dist.Normal(torch.zeros(dim), 1.0).to_event(1)
    with torch.autocast("cpu", torch.bfloat16):
        transform = flow.condition(torch.randn(4, dim), torch.randn(4, 2))
        log_prob = dist.TransformedDistribution(base, [transform]).log_prob(torch.randn(4, dim))
        assert transform.log_abs_det_jacobian(torch.randn(4, dim), torch.randn(4, dim)).dtype is torch.float32
    assert log_prob.dtype is torch.float32
    log_prob.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in flow.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in flow.parameters()) >= 4


@every_case
@pytest.mark.parametrize("extreme", [1e3, -1e3])
def test_gradients_are_finite_at_extreme_contexts(case: FlowCase, extreme: float) -> None:
    dim = case.dims[-1]
    flow = conditional(case, dim, context_dim=2, dtype=torch.float32)
    state = torch.full((3, dim), extreme, requires_grad=True)
    transform = flow.condition(state, torch.full((3, 2), extreme))
    noise = torch.randn(3, dim)
    value, ladj = transform.forward_and_ladj(noise)
    back, back_ladj = transform.inverse_and_ladj(noise)
    total = value.square().sum() + ladj.sum() + back.square().sum() + back_ladj.sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in [*flow.parameters(), state] if p.grad is not None)


@every_case
@pytest.mark.parametrize("extreme", [1e3, -1e3])
def test_gradients_are_finite_at_extreme_parameters(case: FlowCase, extreme: float) -> None:
    family = case.family()
    params = torch.full((family.param_dim,), extreme, dtype=torch.float64, requires_grad=True)
    x = torch.ones(family.dim, dtype=torch.float64)
    value, ladj = family(params).forward_and_ladj(x)
    back, _ = family(params).inverse_and_ladj(x)
    (value.sum() + ladj + back.sum()).backward()
    assert torch.isfinite(params.grad).all()


@pytest.mark.parametrize("delta", [1e-3, 0.1, 0.49])
def test_softplus_diagonal_is_positive_bounded_and_one_at_zero(delta: float) -> None:
    raw = torch.linspace(-1e4, 1e4, 20_001, dtype=torch.float64)
    diagonal = SoftplusDelta(delta)(raw)
    assert float(diagonal.min()) >= delta
    assert (diagonal.diff() >= 0).all()
    torch.testing.assert_close(SoftplusDelta(delta)(torch.zeros(1, dtype=torch.float64))[0].item(), 1.0)


@pytest.mark.parametrize("delta", [1e-3, 0.1, 0.49])
def test_clipped_diagonal_stays_outside_the_interval_and_keeps_its_sign(delta: float) -> None:
    raw = torch.cat([torch.linspace(-3, 3, 6001), torch.tensor([0.0, -1.0, -1 + delta / 2, -1 - delta / 2])]).double()
    diagonal, value = ClipOutside(delta)(raw), raw + 1
    outside = value.abs() >= delta
    assert float(diagonal.abs().min()) >= delta
    torch.testing.assert_close(diagonal[outside], value[outside], rtol=0, atol=0)
    assert (diagonal[~outside].abs() == delta).all()
    assert ((diagonal > 0) == (value >= 0)).all()


@every_affine_case
def test_affine_flows_are_the_gaussian_that_plain_matrices_give(case: FlowCase) -> None:
    family, params, x = drawn(case, 5, dim=3)
    base = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    for theta in params:
        mean, matrix = affine_by_hand(family, theta)
        torch.testing.assert_close(family(theta)(x), mean + x @ matrix.T)
        # The sign of a column does not change C Cᵀ: a positive diagonal is what scale_tril asks for.
        gaussian = MultivariateNormal(mean, scale_tril=matrix * matrix.diagonal().sign())
        density = dist.TransformedDistribution(base, [family(theta)])
        torch.testing.assert_close(density.log_prob(x * 3), gaussian.log_prob(x * 3), rtol=1e-9, atol=1e-9)


@every_case
def test_only_affine_flows_have_a_quadratic_log_density(case: FlowCase) -> None:
    family, params, _ = drawn(case, 1)
    base = dist.Normal(torch.zeros(family.dim, dtype=torch.float64), 1.0).to_event(1)
    along = torch.linspace(-1, 1, 21, dtype=torch.float64)[:, None] * torch.ones(family.dim, dtype=torch.float64)
    log_density = dist.TransformedDistribution(base, [family(params[0])]).log_prob(along)
    third_differences = log_density.diff(n=3).abs().max()
    assert family.affine is case.affine
    assert bool(third_differences < 1e-9) is case.affine


@pytest.mark.parametrize("name", ["nvp halves", "tril-nvp", "tril-nvp direct"])
def test_real_nvp_is_skewed_given_the_state(name: str) -> None:
    family, params, _ = drawn(CASES[name], 5, dim=2, scale=2.0)
    axis = torch.linspace(-8, 8, 101, dtype=torch.float64)
    points, cell = torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2
    weight = torch.exp(-0.5 * points.square().sum(-1)) / (2 * torch.pi) * cell
    with torch.no_grad():
        image = family(params[:, None])(points)
    centred = image - (weight[:, None] * image).sum(1, keepdim=True)
    skewness = (weight[:, None] * centred**3).sum(1) / (weight[:, None] * centred**2).sum(1) ** 1.5
    assert float(skewness.abs().max()) > 0.1


@pytest.mark.parametrize("masks", ["halves", "paper"])
def test_real_nvp_scales_are_bounded_whatever_its_weights(masks: str) -> None:
    torch.manual_seed(0)
    family = randomised(RealNVP(4, layers=2, hidden=4, masks=masks), 1e3)
    params = torch.full((family.param_dim,), 1e3, requires_grad=True)
    value, ladj = family(params).forward_and_ladj(torch.randn(50, 4))
    largest = sum((net.dim - net.keep) * net.max_log_scale for net in family.nets)
    assert float(ladj.detach().abs().max()) <= largest + 1e-4
    assert torch.isfinite(value).all()
    (value.sum() + ladj.sum()).backward()
    assert torch.isfinite(params.grad).all()


def test_paper_masks_never_change_the_first_two_coordinates_and_halves_change_all() -> None:
    for masks, changed in (("paper", [False, False, True, True]), ("halves", [True] * 4)):
        family = randomised(RealNVP(4, layers=2, hidden=4, masks=masks), 0.7).double()
        x = torch.randn(30, 4, dtype=torch.float64)
        y = family(torch.randn(family.param_dim, dtype=torch.float64))(x)
        assert [not torch.equal(a, b) for a, b in zip(x.T, y.T, strict=True)] == changed


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_flow_starts_near_the_identity(name: str, layers: int, inverse: bool) -> None:
    torch.manual_seed(1)
    flow = conditional_flow(name, 4, layers=layers, hidden=(16,), inverse=inverse)
    x, state = torch.randn(20, 4), torch.randn(20, 4)
    assert float((flow.condition(state)(x) - x).detach().abs().max()) < 0.8


def test_conditioner_widths_and_state_feedback_follow_the_options() -> None:
    flow = conditional_flow("tril", 3, state_dim=0, context_dim=5, layers=2, hidden=(7,))
    assert flow.family.param_dim == flow.conditioner.output_dim == 2 * (3 + 3 + 3)
    assert flow.feedback is False
    assert conditional_flow("diag", 3).feedback is True
    nvp = conditional_flow("nvp", 4)
    assert [net.keep_first for net in nvp.family.nets] == [True, False] * 3
    assert [net.keep for net in conditional_flow("nvp", 8, masks="paper").family.nets] == [2, 3, 4, 5, 6, 7]


LAYERS = {
    "one layer is six couplings": ({}, [(4, True), (4, False)] * 3),
    "layers counts couplings": ({"layers": 3}, [(4, True), (4, False), (4, True)]),
    "the paper's masks": ({"masks": "paper", "layers": 3}, [(keep, True) for keep in range(2, 8)]),
}


@pytest.mark.parametrize(("options", "couplings"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("inverse", [False, True])
def test_tril_nvp_is_real_nvp_on_the_noise_and_then_one_tril(options: dict, couplings: list, inverse: bool) -> None:
    flow = conditional_flow("tril-nvp", 8, hidden=(16, 12), inverse=inverse, delta=0.2, **options)
    noise, affine = flow.family.families
    assert [(net.keep, net.keep_first) for net in noise.nets] == couplings
    assert isinstance(affine, Triangular)
    assert (affine.inverse, affine.positive.delta) == (inverse, 0.2)
    assert flow.family.param_dim == noise.param_dim + affine.param_dim == 8 * len(couplings) + 2 * 8 + 28
    # One network computes the parameters of both, unlike that of a bare Real-NVP, which reads the state linearly.
    assert [layer.out_features for layer in flow.conditioner.layers] == [12, flow.family.param_dim]
    assert flow.conditioner.bias.shape == (16,)
    assert len(conditional_flow("nvp", 8, hidden=(16, 12)).conditioner.layers) == 0


@pytest.mark.parametrize("inverse", [False, True])
def test_tril_nvp_whose_couplings_are_silent_has_the_density_of_tril(inverse: bool) -> None:
    flow = conditional_flow("tril-nvp", 3, hidden=(5,), inverse=inverse, delta=0.2).double()
    randomised(flow, 0.5)
    noise, affine = flow.family.families
    for net in noise.nets:
        torch.nn.init.zeros_(net.last.weight)
        torch.nn.init.zeros_(net.last.bias)
    base = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    for state in torch.randn(4, 3, dtype=torch.float64):
        mean, matrix = affine_by_hand(affine, flow.params(state, flow.project())[noise.param_dim :])
        gaussian = MultivariateNormal(mean, scale_tril=matrix)
        points = 3 * torch.randn(20, 3, dtype=torch.float64)
        found = dist.ConditionalTransformedDistribution(base, [flow]).condition(state).log_prob(points)
        torch.testing.assert_close(found, gaussian.log_prob(points))
    assert not torch.allclose(matrix, torch.eye(3, dtype=torch.float64), atol=0.1)


FAULTS = {
    "flow": (lambda: conditional_flow("trl", 3), UnknownNameError, "unknown flow 'trl' (did you mean 'tril'?)"),
    "diagonal": (lambda: Diagonal(2, diagonal="clp"), UnknownNameError, "did you mean 'clip'?"),
    "masks": (lambda: RealNVP(4, masks="half"), UnknownNameError, "did you mean 'halves'?"),
    "delta 0": (lambda: Triangular(2, delta=0.0), ValueError, "delta must lie between 0 and 0.5"),
    "delta 0.5": (lambda: Triangular(2, delta=0.5), ValueError, "got 0.5"),
    "nvp D=1": (lambda: RealNVP(1), ValueError, "needs more than 1 dimensions"),
    "paper D=2": (lambda: RealNVP(2, masks="paper"), ValueError, "masks='paper' needs more than 2"),
    "widths": (
        lambda: ConditionalFlow(Diagonal(2), Conditioner(2, 5)),
        ValueError,
        "gives 5 numbers, the flow needs 4",
    ),
}


@pytest.mark.parametrize(("build", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_faulty_parameters_are_refused(build: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        build()
    assert message in str(caught.value)
