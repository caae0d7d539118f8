"""TradingBot: stocks, orders, an account and a watch list."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, ClassVar

from qwq.envs.bfcl.base import CallRefused, Json, World

NOW = datetime.datetime(2024, 9, 1, 10, 30)
DAY_S = 24 * 3600
COLUMNS = ("price", "percent_change", "volume", "MA(5)", "MA(20)")
STOCKS = {
    "AAPL": (227.16, 0.17, 2.552, 227.11, 227.09), "GOOG": (2840.34, 0.24, 1.123, 2835.67, 2842.15),
    "TSLA": (667.92, -0.12, 1.654, 671.15, 668.2), "MSFT": (310.23, 0.09, 3.234, 309.88, 310.11),
    "NVDA": (220.34, 0.34, 1.234, 220.45, 220.67), "ALPH": (1320.45, -0.08, 1.567, 1321.12, 1325.78),
    "OMEG": (457.23, 0.12, 2.345, 456.78, 458.12), "QUAS": (725.89, -0.03, 1.789, 726.45, 728.0),
    "NEPT": (88.34, 0.19, 0.654, 88.21, 88.67), "SYNX": (345.67, 0.11, 2.112, 345.34, 346.12),
    "ZETA": (22.09, -0.05, 0.789, 22.12, 22.34),
}  # fmt: skip
SYMBOLS = {
    "Apple": "AAPL", "Google": "GOOG", "Tesla": "TSLA", "Microsoft": "MSFT", "Nvidia": "NVDA", "Zeta Corp": "ZETA",
    "Alpha Tech": "ALPH", "Omega Industries": "OMEG", "Quasar Ltd.": "QUAS", "Neptune Systems": "NEPT",
    "Synex Solutions": "SYNX", "Amazon": "AMZN", "Gorilla": "GORI",
}  # fmt: skip
SECTORS = {"Technology": ["AAPL", "GOOG", "MSFT", "NVDA"], "Automobile": ["TSLA", "F", "GM"]}
TIME = "%Y-%m-%d %H:%M:%S"


class TradingBot(World):
    seed = 1053520
    defaults: ClassVar[Mapping[str, Any]] = {
        "orders": {
            12345: {
                "id": 12345,
                "order_type": "Buy",
                "symbol": "AAPL",
                "price": 210.65,
                "amount": 10,
                "status": "Completed",
            },
            12446: {
                "id": 12446,
                "order_type": "Sell",
                "symbol": "GOOG",
                "price": 2840.56,
                "amount": 5,
                "status": "Pending",
            },
        },
        "account_info": {"account_id": 12345, "balance": 10000.0, "binding_card": 1974202140965533},
        "authenticated": False,
        "market_status": "Closed",
        "order_counter": 12446,
        "stocks": {symbol: dict(zip(COLUMNS, figures, strict=True)) for symbol, figures in STOCKS.items()},
        "watch_list": ["NVDA"],
        "transaction_history": [],
    }
    orders: dict[Any, Json]
    account_info: Json
    authenticated: bool
    market_status: str
    order_counter: int
    stocks: dict[str, Json]
    watch_list: list[str]
    transaction_history: list[Json]

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.orders = {int(k) if isinstance(k, str) and k.isdigit() else k: v for k, v in self.orders.items()}

    def _need_login(self) -> None:
        if not self.authenticated:
            raise CallRefused("not logged in: log in first")

    def _order(self, order_id: int) -> Json:
        if order_id not in self.orders:
            raise CallRefused(f"no order with the id {order_id}: there are {list(self.orders)}")
        return self.orders[order_id]

    def trading_login(self, username: str, password: str) -> Json:
        was, self.authenticated = self.authenticated, True
        return {"status": "Already logged in" if was else "Logged in successfully"}

    def trading_logout(self) -> Json:
        was, self.authenticated = self.authenticated, False
        return {"status": "Logged out successfully" if was else "No user is currently logged in"}

    def trading_get_login_status(self) -> Json:
        return {"status": bool(self.authenticated)}

    # -- stocks ------------------------------------------------------------------------------------

    def get_current_time(self) -> Json:
        return {"current_time": NOW.strftime("%I:%M %p")}

    def get_symbol_by_name(self, name: str) -> Json:
        return {"symbol": SYMBOLS.get(name, "Stock not found")}

    def get_stock_info(self, symbol: str) -> Json:
        if symbol not in self.stocks:
            raise CallRefused(f"no stock with the symbol {symbol}")
        return self.stocks[symbol]

    def get_available_stocks(self, sector: str) -> Json:
        return {"stock_list": SECTORS.get(sector, [])}

    def filter_stocks_by_price(self, stocks: list[str], min_price: float, max_price: float) -> Json:
        return {
            "filtered_stocks": [s for s in stocks if min_price <= self.stocks.get(s, {}).get("price", 0) <= max_price]
        }

    def notify_price_change(self, stocks: list[str], threshold: float) -> Json:
        moved = [s for s in stocks if s in self.stocks and abs(self.stocks[s]["percent_change"]) >= threshold]
        if not moved:
            return {"notification": "No significant price changes in the selected stocks."}
        return {"notification": f"Stocks {', '.join(moved)} have significant price changes."}

    def get_watchlist(self) -> Json:
        self._need_login()
        return {"watchlist": self.watch_list}

    def add_to_watchlist(self, stock: str) -> Json:
        if stock in self.stocks and stock not in self.watch_list:
            self.watch_list.append(stock)
        return {"watchlist": self.watch_list}

    def remove_stock_from_watchlist(self, symbol: str) -> Json:
        self._need_login()
        if symbol not in self.watch_list:
            raise CallRefused(f"{symbol} is not on the watch list")
        self.watch_list.remove(symbol)
        return {"status": f"Stock {symbol} removed from watchlist successfully."}

    # -- orders ------------------------------------------------------------------------------------

    def place_order(self, order_type: str, symbol: str, price: float, amount: int) -> Json:
        self._need_login()
        if symbol not in self.stocks:
            raise CallRefused(f"no stock with the symbol {symbol}")
        if price <= 0 or amount <= 0:
            raise CallRefused("price and amount must be positive")
        price, balance = float(price), self.account_info.get("balance", 0)
        if order_type.lower() == "buy" and price * int(amount) > balance:
            raise CallRefused(f"the order costs {price * int(amount):.2f}, the balance is {balance:.2f}")
        order_id = self.order_counter
        self.orders[order_id] = {
            "id": order_id, "order_type": order_type, "symbol": symbol, "price": price, "amount": amount,
            "status": "Open",
        }  # fmt: skip
        self.order_counter += 1
        return {"order_id": order_id, "order_type": order_type, "status": "Pending", "price": price, "amount": amount}

    def get_order_details(self, order_id: int) -> Json:
        return self._order(order_id)

    def cancel_order(self, order_id: int) -> Json:
        order = self._order(order_id)
        if order["status"] == "Completed":
            raise CallRefused(f"order {order_id} is completed and cannot be cancelled")
        order["status"] = "Cancelled"
        return {"order_id": order_id, "status": "Cancelled"}

    def get_order_history(self) -> Json:
        self._need_login()
        return {"history": list(self.orders)}

    # -- the account -------------------------------------------------------------------------------

    def get_account_info(self) -> Json:
        self._need_login()
        return self.account_info

    def fund_account(self, amount: float) -> Json:
        self._need_login()
        if amount <= 0:
            raise CallRefused("the amount must be positive")
        return self._transact("deposit", amount, "Account funded successfully")

    def withdraw_funds(self, amount: float) -> Json:
        self._need_login()
        if self.market_status != "Open":
            raise CallRefused("the market is closed: no transactions now")
        if amount <= 0:
            raise CallRefused("the amount must be positive")
        if amount > self.account_info["balance"]:
            raise CallRefused(f"{amount} asked for, the balance is {self.account_info['balance']}")
        return self._transact("withdrawal", amount, "Withdrawal successful")

    def _transact(self, kind: str, amount: float, status: str) -> Json:
        self.account_info["balance"] += amount if kind == "deposit" else -amount
        at = NOW + datetime.timedelta(seconds=self._random.randint(0, DAY_S))
        self.transaction_history.append({"type": kind, "amount": amount, "timestamp": at.strftime(TIME)})
        return {"status": status, "new_balance": self.account_info["balance"]}

    def get_transaction_history(self, start_date: str | None = None, end_date: str | None = None) -> Json:
        self._need_login()
        start = datetime.datetime.strptime(start_date, "%Y-%m-%d") if start_date else datetime.datetime.min
        end = datetime.datetime.strptime(end_date, "%Y-%m-%d") if end_date else datetime.datetime.max
        found = [
            t for t in self.transaction_history if start <= datetime.datetime.strptime(t["timestamp"], TIME) <= end
        ]
        return {"transaction_history": found}
