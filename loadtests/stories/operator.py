"""An operator at the console: looks a payment up, reads why, and goes through what waits."""

import itertools

from locust import between, task

from stories.base import PAYMENTS, SANDBOX, Story

_places = itertools.count()


class Operator(Story):
    """Reads; what moves money needs two operators and is no story of load."""

    wait_time = between(1.0, 4.0)
    weight = 1

    def on_start(self) -> None:
        """Go on with a session of the sandbox's operators, and see what is in doubt."""
        operators = SANDBOX["operators"]
        self.token = operators[next(_places) % len(operators)]["access_token"]
        self.ask("GET", "/admin/v1/money-in-doubt")

    @task(6)
    def explain(self) -> None:
        """Read a payment's trace as an operator, and as its customer would."""
        for payment in PAYMENTS.some(1):
            path = f"/v1/payments/{payment['id']}/trace"
            self.ask("GET", path, name="/v1/payments/{id}/trace")
            self.ask("GET", f"{path}?view=customer", name="/v1/payments/{id}/trace?view=customer")

    @task(3)
    def reviews(self) -> None:
        """Go through what a human must settle, and the money in doubt."""
        waiting = self.scroll("/admin/v1/reviews?limit=20", name="/admin/v1/reviews?limit=")
        for review in waiting[:1]:
            self.ask("GET", f"/admin/v1/reviews/{review['id']}", name="/admin/v1/reviews/{id}")
        self.ask("GET", "/admin/v1/money-in-doubt")

    @task(2)
    def audit(self) -> None:
        """See what was done lately."""
        self.scroll("/admin/v1/audit?limit=20", name="/admin/v1/audit?limit=")

    @task(2)
    def sessions(self) -> None:
        """See where a customer is logged in."""
        for payment in PAYMENTS.some(1):
            user = SANDBOX["users"][len(payment["id"]) % len(SANDBOX["users"])]["id"]
            self.scroll(
                f"/admin/v1/sessions?user={user}&limit=10", name="/admin/v1/sessions?user=", pages=1
            )

    @task(1)
    def breaks(self) -> None:
        """See what does not match the processors' reports."""
        self.scroll(
            "/admin/v1/reconciliation/breaks?limit=20&status=open",
            name="/admin/v1/reconciliation/breaks?status=open",
        )

    @task(1)
    def balance(self) -> None:
        """Read the trial balance: debits and credits of each currency are equal."""
        self.ask("GET", "/admin/v1/ledger/trial-balance")
