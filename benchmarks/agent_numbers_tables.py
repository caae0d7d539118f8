"""Tables for `agent_numbers.py`, drawn from a seed; the first row names the columns."""

from __future__ import annotations

import random
from collections.abc import Callable

Rows = list[list[object]]


def sales(rng: random.Random) -> Rows:
    rows: Rows = [["date", "region", "product", "units", "unit_price", "revenue", "cost"]]
    base = {"North": 1.3, "South": 0.8, "East": 1.0, "West": 1.1}
    price = {"Desk": 249.0, "Chair": 89.5, "Lamp": 34.9}
    for i in range(720):
        region, product = rng.choice(list(base)), rng.choice(list(price))
        units = max(1, round(rng.gauss(14, 5) * base[region]))
        unit_price = round(price[product] * rng.uniform(0.9, 1.1), 2)
        revenue = round(units * unit_price, 2)
        date = f"2024-{1 + i % 12:02d}-{1 + rng.randrange(28):02d}"
        rows.append([date, region, product, units, unit_price, revenue, round(revenue * rng.uniform(0.5, 0.7), 2)])
    return rows


def passengers(rng: random.Random) -> Rows:
    rows: Rows = [["PassengerId", "Survived", "Pclass", "Sex", "Age", "Fare", "Embarked"]]
    for i in range(640):
        pclass = rng.choices((1, 2, 3), (24, 21, 55))[0]
        sex = rng.choices(("male", "female"), (65, 35))[0]
        odds = {1: 0.62, 2: 0.48, 3: 0.25}[pclass] + (0.28 if sex == "female" else -0.17)
        age: object = max(1, round(rng.gauss(44 - 6 * pclass, 13))) if rng.random() > 0.2 else ""
        fare = round(max(4.0, rng.gauss({1: 84, 2: 21, 3: 13}[pclass], 6)), 4)
        rows.append([i + 1, int(rng.random() < odds), pclass, sex, age, fare, rng.choices("SCQ", (72, 19, 9))[0]])
    return rows


def sensors(rng: random.Random) -> Rows:
    rows: Rows = [["station", "day", "temperature", "humidity", "pm25"]]
    for station, warm, dust in (("Harbour", 14.0, 18.0), ("Airport", 12.5, 24.0), ("Old Town", 15.2, 31.0)):
        for day in range(1, 121):
            temperature = round(rng.gauss(warm - 9 + day / 9, 3.0), 1)
            humidity = round(min(99.0, max(20.0, rng.gauss(88 - 1.6 * temperature, 6))), 1)
            rows.append([station, day, temperature, humidity, round(max(1.0, rng.gauss(dust, 7)), 1)])
    return rows


def employees(rng: random.Random) -> Rows:
    rows: Rows = [["id", "department", "level", "salary", "years", "remote", "left"]]
    pay = {"Engineering": 92000, "Sales": 68000, "Support": 47000, "Finance": 74000}
    for i in range(520):
        department, level = rng.choice(list(pay)), rng.choices(("junior", "senior", "lead"), (5, 4, 1))[0]
        factor = {"junior": 0.85, "senior": 1.15, "lead": 1.45}[level]
        years = round(abs(rng.gauss(4, 3)), 1)
        salary = round(rng.gauss(pay[department] * factor, 6000), -1)
        rows.append([i + 1, department, level, int(salary), years, rng.choice(("yes", "no")), int(rng.random() < 0.17)])
    return rows


def loans(rng: random.Random) -> Rows:
    rows: Rows = [["loan_id", "grade", "amount", "interest_rate", "term_months", "default"]]
    for i in range(900):
        grade = rng.choices("ABCD", (30, 34, 24, 12))[0]
        risk = {"A": 0.04, "B": 0.09, "C": 0.17, "D": 0.29}[grade]
        amount = round(max(1000, rng.gauss(13500, 5200)), -2)
        rate = round(rng.gauss(5.5 + 40 * risk, 0.8), 2)
        rows.append([i + 1, grade, int(amount), rate, rng.choice((36, 60)), int(rng.random() < risk)])
    return rows


def hotels(rng: random.Random) -> Rows:
    rows: Rows = [["city", "stars", "price", "score", "reviews", "cancelled"]]
    for _ in range(480):
        city = rng.choice(("Lisbon", "Vienna", "Prague", "Oslo"))
        stars = rng.choices((3, 4, 5), (45, 40, 15))[0]
        level = {"Lisbon": 1.0, "Vienna": 1.1, "Prague": 0.85, "Oslo": 1.6}[city]
        price = round(max(35.0, rng.gauss(45 * (stars - 1) * level, 14)), 2)
        score = round(min(10.0, rng.gauss(6.4 + 0.5 * stars, 0.5)), 1)
        rows.append([city, stars, price, score, rng.randrange(12, 2400), int(rng.random() < 0.11 + 0.03 * stars)])
    return rows


def segments(rng: random.Random) -> Rows:
    rows: Rows = [["year", "quarter", "segment", "revenue", "operating_income", "customers"]]
    for year in (2023, 2024):
        for quarter in ("Q1", "Q2", "Q3", "Q4"):
            for segment, size in (("Cloud", 61.0), ("Devices", 34.0), ("Services", 22.0)):
                revenue = round(size * 1e6 * (1 + 0.12 * (year - 2023)) * rng.uniform(0.9, 1.1))
                income = round(revenue * rng.uniform(-0.06, 0.3))
                rows.append([year, quarter, segment, revenue, income, round(size * rng.uniform(900, 1100))])
    return rows


def clinic(rng: random.Random) -> Rows:
    rows: Rows = [["patient", "arm", "age", "bmi", "sbp_before", "sbp_after", "event"]]
    for i in range(300):
        arm = ("placebo", "low dose", "high dose")[i % 3]
        before = rng.gauss(148, 11)
        after = before - {"placebo": 2.5, "low dose": 8.0, "high dose": 13.5}[arm] + rng.gauss(0, 6)
        age, bmi = round(rng.gauss(58, 9)), round(rng.gauss(27.4, 3.1), 1)
        event = int(rng.random() < {"placebo": 0.24, "low dose": 0.17, "high dose": 0.11}[arm])
        rows.append([i + 1, arm, age, bmi, round(before, 1), round(after, 1), event])
    return rows


TABLES: dict[str, Callable[[random.Random], Rows]] = {
    table.__name__: table for table in (sales, passengers, sensors, employees, loans, hotels, segments, clinic)
}  # fmt: skip
