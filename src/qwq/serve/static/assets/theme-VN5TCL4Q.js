var e=localStorage.getItem("qwq.theme");(e==='"dark"'||e==='"light"')&&(document.documentElement.dataset.theme=JSON.parse(e));
