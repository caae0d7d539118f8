"""TravelAPI: flights, cards, bookings, insurance and a budget, behind an access token."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Mapping
from typing import Any, ClassVar

from qwq.envs.bfcl.base import CallRefused, Json, World

AIRPORTS = "RMS SBK MPC SVP SHD CDG LHR SSV OKD WLB PEK HND HKG CIA CRH ATV PHV GFD SFO LAX JFK ORD BOS".split()
CITIES = {
    "Rivermist": "RMS", "Stonebrook": "SBK", "Maplecrest": "MPC", "Silverpine": "SVP", "Shadowridge": "SHD",
    "London": "LHR", "Paris": "CDG", "Sunset Valley": "SSV", "Oakendale": "OKD", "Willowbend": "WLB",
    "Crescent Hollow": "CRH", "Autumnville": "ATV", "Pinehaven": "PHV", "Greenfield": "GFD", "San Francisco": "SFO",
    "Los Angeles": "LAX", "New York": "JFK", "Chicago": "ORD", "Boston": "BOS", "Beijing": "PEK", "Hong Kong": "HKG",
    "Rome": "CIA", "Tokyo": "HND",
}  # fmt: skip
# What one economy seat costs, from the first airport to each of the others; no route where nothing
# stands.
ROUTES = """
SFO: LAX 200 JFK 500 ORD 400 BOS 450 RMS 300 SBK 350 MPC 370 SVP 320 SHD 330 SSV 340 OKD 360 WLB 310 CRH 380 ATV 390 PHV 420 GFD 430 CIA 700
LAX: SFO 100 JFK 600 ORD 500 BOS 550 RMS 310 SBK 320 MPC 330 SVP 340 SHD 350 SSV 360 OKD 370 WLB 380 CRH 390 ATV 400 PHV 410 GFD 420 HND 430
JFK: ORD 300 BOS 250 RMS 450 SBK 460 MPC 470 SVP 480 SHD 490 SSV 500 OKD 510 WLB 520 CRH 530 ATV 540 PHV 550 GFD 560 LAX 570 HND 800 PVG 950 PEK 1000
ORD: LAX 180 BOS 200 RMS 350 SBK 360 MPC 370 SVP 380 SHD 390 SSV 400 OKD 410 WLB 420 CRH 430 ATV 440 PHV 450 GFD 460
BOS: RMS 400 SBK 410 MPC 420 SVP 430 SHD 440 SSV 450 OKD 460 WLB 470 CRH 480 ATV 490 PHV 500 GFD 510
RMS: BOS 200 JFK 210 SBK 220 MPC 230 SVP 240 SHD 250 SSV 260 OKD 270 WLB 280 CRH 290 ATV 300 PHV 310 GFD 320 LAX 330
SBK: MPC 200 SVP 210 SHD 220 SSV 230 OKD 240 WLB 250 CRH 260 ATV 270 PHV 280 GFD 290
MPC: SVP 210 SHD 220 SSV 230 OKD 240 WLB 250 CRH 260 ATV 270 PHV 280 GFD 290
SVP: SHD 230 SSV 240 OKD 250 WLB 260 CRH 270 ATV 280 PHV 290 GFD 300
SHD: SSV 220 OKD 230 WLB 240 CRH 250 ATV 260 PHV 270 GFD 280
SSV: OKD 240 WLB 250 CRH 260 ATV 270 PHV 280 GFD 290
OKD: WLB 230 CRH 240 ATV 250 PHV 260 GFD 270 LAX 220
WLB: CRH 250 ATV 260 PHV 270 GFD 280
CRH: ATV 240 PHV 250 GFD 260 SFO 270 RMS 280 HKG 290 JFK 300
ATV: PHV 230 GFD 240
PHV: GFD 220
LHR: CDG 100
"""
RATES = {
    "RMB": 7,
    "EUR": 0.8,
    "JPY": 110,
    "GBP": 0.7,
    "CAD": 1.3,
    "AUD": 1.4,
    "INR": 70,
    "RUB": 60,
    "BRL": 3.8,
    "MXN": 20,
}  # for one USD
FACTORS = {"economy": 1, "business": 2, "first": 5}


def _routes() -> dict[tuple[str, str], int]:
    table: dict[tuple[str, str], int] = {}
    for line in ROUTES.strip().splitlines():
        start, _, rest = line.partition(": ")
        cells = rest.split()
        table |= {(start, end): int(cost) for end, cost in zip(cells[::2], cells[1::2], strict=True)}
    return table


COSTS = _routes()


class TravelAPI(World):
    seed = 141053
    defaults: ClassVar[Mapping[str, Any]] = {
        "credit_card_list": {}, "booking_record": {}, "access_token": None, "token_type": None,
        "token_expires_in": None, "token_scope": None, "user_first_name": None, "user_last_name": None,
        "budget_limit": None,
    }  # fmt: skip
    credit_card_list: dict[str, Json]
    booking_record: dict[str, Json]
    access_token: str | None
    token_type: str | None
    token_expires_in: int | None
    token_scope: str | None
    user_first_name: str | None
    user_last_name: str | None
    budget_limit: float | None

    def _need_token(self, token: str) -> None:
        if self.token_expires_in == 0:
            raise CallRefused("the token has expired")
        if token != self.access_token:
            raise CallRefused("this is not the access token")

    def _card(self, card_id: str) -> Json:
        if card_id not in self.credit_card_list:
            raise CallRefused(f"no card with the id {card_id}: there are {list(self.credit_card_list)}")
        return self.credit_card_list[card_id]

    def _booking(self, booking_id: str | None) -> Json:
        if booking_id not in self.booking_record:
            raise CallRefused(f"no booking with the id {booking_id}")
        return self.booking_record[booking_id]

    def authenticate_travel(
        self,
        client_id: str,
        client_secret: str,
        refresh_token: str,
        grant_type: str,
        user_first_name: str,
        user_last_name: str,
    ) -> Json:
        self.token_expires_in, self.token_type, self.token_scope = 2, "Bearer", grant_type
        self.access_token = str(self._random.randint(100000, 999999))
        self.user_first_name, self.user_last_name = user_first_name, user_last_name
        return {"expires_in": 2, "access_token": self.access_token, "token_type": "Bearer", "scope": grant_type}

    def travel_get_login_status(self) -> Json:
        return {"status": self.token_expires_in not in (None, 0)}

    def get_budget_fiscal_year(self, lastModifiedAfter: str | None = None, includeRemoved: str | None = None) -> Json:
        return {"budget_fiscal_year": "2018"}

    # -- cards and the budget ----------------------------------------------------------------------

    def register_credit_card(
        self,
        access_token: str,
        card_number: str,
        expiration_date: str,
        cardholder_name: str,
        card_verification_number: int,
    ) -> Json:
        if self.token_expires_in is None:
            raise CallRefused("there is no token yet: authenticate first")
        self._need_token(access_token)
        if card_number in self.credit_card_list:
            raise CallRefused("this card is registered already")
        card_id = str(self._random.randint(100000000000, 999999999999))
        self.credit_card_list[card_id] = {
            "card_number": card_number, "expiration_date": expiration_date, "cardholder_name": cardholder_name,
            "card_verification_number": card_verification_number, "balance": self._random.randint(10000, 99999),
        }  # fmt: skip
        return {"card_id": card_id}

    def get_credit_card_balance(self, access_token: str, card_id: str) -> Json:
        self._need_token(access_token)
        return {"card_balance": self._card(card_id)["balance"]}

    def get_all_credit_cards(self) -> Json:
        return {"credit_card_list": self.credit_card_list}

    def set_budget_limit(self, access_token: str, budget_limit: float) -> Json:
        self._need_token(access_token)
        self.budget_limit = float(budget_limit)
        return {"budget_limit": self.budget_limit}

    def compute_exchange_rate(self, base_currency: str, target_currency: str, value: float) -> Json:
        if base_currency == "USD" and target_currency in RATES:
            return {"exchanged_value": float(value * RATES[target_currency])}
        if target_currency == "USD" and base_currency in RATES:
            return {"exchanged_value": round(value / RATES[base_currency], 2)}
        raise CallRefused(f"no exchange rate from {base_currency} to {target_currency}")

    # -- flights -----------------------------------------------------------------------------------

    def list_all_airports(self) -> list[str]:
        return AIRPORTS

    def get_nearest_airport_by_city(self, location: str) -> Json:
        return {"nearest_airport": CITIES.get(location, "Unknown")}

    @staticmethod
    def _cost(travel_from: str, travel_to: str, travel_date: str, travel_class: str) -> float:
        if (travel_from, travel_to) not in COSTS:
            raise CallRefused(f"no route from {travel_from} to {travel_to}")
        if travel_class not in FACTORS:
            raise CallRefused(f"no class {travel_class}: there are {', '.join(FACTORS)}")
        even = sum(int(c) for c in travel_date if c.isdigit()) % 2 == 0  # of the date's digits
        return float(COSTS[travel_from, travel_to] * FACTORS[travel_class] * (2 if even else 1))

    def get_flight_cost(self, travel_from: str, travel_to: str, travel_date: str, travel_class: str) -> Json:
        return {"travel_cost_list": [self._cost(travel_from, travel_to, travel_date, travel_class)]}

    def book_flight(
        self, access_token: str, card_id: str, travel_date: str, travel_from: str, travel_to: str, travel_class: str
    ) -> Json:
        try:
            self._need_token(access_token)
            card = self._card(card_id)
            for airport in (travel_from, travel_to):
                if airport not in AIRPORTS:
                    raise CallRefused(f"no airport {airport}")
            datetime.datetime.strptime(travel_date, "%Y-%m-%d")
            cost = self._cost(travel_from, travel_to, travel_date, travel_class)
            if card["balance"] < cost:
                raise CallRefused(f"the flight costs {cost}, the card has {card['balance']}")
            if self.budget_limit is not None and card["balance"] < self.budget_limit:
                raise CallRefused(f"the card has {card['balance']}, less than the budget limit of {self.budget_limit}")
        except CallRefused as refusal:
            return {"booking_status": False, "error": str(refusal)}
        card["balance"] -= cost
        booking_id, transaction_id = (
            str(self._random.randint(1000000, 9999999)),
            str(self._random.randint(10000000, 99999999)),
        )
        self.booking_record[booking_id] = {
            "card_id": card_id, "travel_date": travel_date, "travel_from": travel_from, "travel_to": travel_to,
            "travel_class": travel_class, "travel_cost": cost, "transaction_id": transaction_id,
        }  # fmt: skip
        return {
            "booking_id": booking_id,
            "transaction_id": transaction_id,
            "booking_status": True,
            "booking_history": {},
        }

    def cancel_booking(self, access_token: str, booking_id: str) -> Json:
        try:
            self._need_token(access_token)
            booking = self._booking(booking_id)
        except CallRefused as refusal:
            return {"cancel_status": False, "error": str(refusal)}
        self.credit_card_list[booking["card_id"]]["balance"] += booking["travel_cost"]
        del self.booking_record[booking_id]
        return {"cancel_status": True}

    def retrieve_invoice(
        self, access_token: str, booking_id: str | None = None, insurance_id: str | None = None
    ) -> Json:
        self._need_token(access_token)
        booking = self._booking(booking_id)
        shown = ("travel_date", "travel_from", "travel_to", "travel_class", "travel_cost", "transaction_id")
        return {"invoice": {"booking_id": booking_id, **{key: booking[key] for key in shown}}}

    def get_booking_history(self, access_token: str) -> Json:
        self._need_token(access_token)
        return {"booking_history": copy.deepcopy(self.booking_record)}

    def purchase_insurance(
        self, access_token: str, insurance_type: str, booking_id: str, insurance_cost: float, card_id: str
    ) -> Json:
        try:
            self._need_token(access_token)
            if self.budget_limit is not None and self.budget_limit < insurance_cost:
                raise CallRefused(f"it costs {insurance_cost}, the budget limit is {self.budget_limit}")
            self._booking(booking_id)
            card = self._card(card_id)
        except CallRefused as refusal:
            return {"insurance_status": False, "error": str(refusal)}
        card["balance"] -= insurance_cost
        return {"insurance_id": str(self._random.randint(100000000, 999999999)), "insurance_status": True}

    def contact_customer_support(self, booking_id: str, message: str) -> Json:
        self._booking(booking_id)
        return {"customer_support_message": "Thank you. Customer support has your message and will answer shortly."}

    def verify_traveler_information(
        self, first_name: str, last_name: str, date_of_birth: str, passport_number: str
    ) -> Json:
        fault = None
        try:
            born = datetime.date.fromisoformat(date_of_birth)
        except ValueError:
            born = None
        today = datetime.date.today()
        if (first_name, last_name) != (self.user_first_name, self.user_last_name):
            fault = f"{first_name} {last_name} is not the user {self.user_first_name} {self.user_last_name}"
        elif born is None:
            fault = "the date of birth must be YYYY-MM-DD"
        elif today.year - born.year - ((today.month, today.day) < (born.month, born.day)) < 18:
            fault = "the traveler must be 18 at least"
        elif not passport_number.startswith("US"):
            fault = "the passport must be one of the United States"
        return (
            {"verification_status": True}
            if fault is None
            else {"verification_status": False, "verification_failure": fault}
        )
