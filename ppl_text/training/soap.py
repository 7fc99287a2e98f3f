"""SOAP in three parts, of which the middle one never asks the host: so a recorded step can hold it."""

from __future__ import annotations

from typing import Any

import pytorch_optimizer
import torch
from torch import Tensor


class SOAP(pytorch_optimizer.SOAP):
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024), as ``pytorch_optimizer`` has it.

    ``step()`` is a whole update. Where updates are recorded, ``begin_update()`` before the recorded part counts the
    update and writes its step size to the device, ``step()`` within it changes parameters, moments and preconditioners
    in place, and ``end_update()`` after it renews the eigenbases when that is due, which takes a QR decomposition.

    Without weight decay, for real gradients.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], largest: int) -> None:
        super().__init__(groups, lr=lr, betas=betas, weight_decay=0.0, max_precondition_dim=largest)
        self._sizes: dict[int, Tensor] = {}
        self._begun = False

    @torch.no_grad()
    def begin_update(self) -> None:
        """Count an update and write lr · √(1 - β₂ⁿ) / (1 - β₁ⁿ), where n updates were made before."""
        self._begun = True
        for index, group in enumerate(self.param_groups):
            group["step"] = group.get("step", 0) + 1
            before = group["step"] - 1
            if index not in self._sizes:
                self._sizes[index] = group["params"][0].new_zeros(())
            if before > 0:
                beta1, beta2 = group["betas"]
                corrected = (1 - beta2**before) ** 0.5 / (1 - beta1**before)
                rate = group["lr"] * corrected
                self._sizes[index].copy_(rate) if isinstance(rate, Tensor) else self._sizes[index].fill_(rate)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Change the parameters; the first update of a group only begins its preconditioners."""
        alone = not self._begun
        if alone:
            self.begin_update()
        for index, group in enumerate(self.param_groups):
            self.init_group(group)
            if group["step"] > 1:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._change(parameter, group, self._sizes[index])
        if alone:
            self.end_update()

    @torch.no_grad()
    def end_update(self) -> None:
        """Renew the eigenbases of what is trained, every ``precondition_frequency`` updates, in place."""
        self._begun = False
        for group in self.param_groups:
            before = group["step"] - 1
            if before > 0 and before % group["precondition_frequency"] == 0:
                for parameter in group["params"]:
                    if parameter.requires_grad and self.state[parameter]:
                        self._renew(self.state[parameter])

    def _change(self, parameter: Tensor, group: dict[str, Any], size: Tensor) -> None:
        gradient, state, (beta1, beta2) = parameter.grad, self.state[parameter], group["betas"]
        state["exp_avg"].lerp_(gradient, weight=1.0 - beta1)
        state["exp_avg_sq"].lerp_(self.project(gradient, state).square(), weight=1.0 - beta2)
        direction = self.project(state["exp_avg"], state) / state["exp_avg_sq"].sqrt().add_(group["eps"])
        parameter.addcmul_(self.project(direction, state, project_type="backward"), size, value=-1.0)
        # At step 0 the preconditioners follow the gradient and no basis is renewed.
        self.update_pre_conditioner(gradient, state, step=0, max_precondition_dim=group["max_precondition_dim"])

    def _renew(self, state: dict[str, Any]) -> None:
        squares, bases = state["exp_avg_sq"], state["Q"]
        renewed = self.get_orthogonal_matrix_qr(state)
        squares.copy_(state["exp_avg_sq"])
        state["exp_avg_sq"] = squares
        for basis, values in zip(bases, renewed, strict=True):
            if len(basis):
                basis.copy_(values)
